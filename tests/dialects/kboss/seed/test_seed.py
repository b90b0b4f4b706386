"""Is every example of the contract answered as it stands there, in Chinese, and in English as we say it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from cloudsched.clock import ManualClock
from cloudsched.dialects.kboss import routes
from tests.dialects.kboss.conftest import Api
from tests.dialects.kboss.seed import centres, clusters, hosts, instances, labels, parts, pcapi, quotes
from tests.dialects.kboss.seed.form import EXAMPLES, Entry, check, check_chinese, check_english, put
from tests.dialects.kboss.seed.world import PAIR, World

ENTRIES: tuple[Entry, ...] = tuple(
    entry for module in (centres, hosts, labels, clusters, instances, parts, quotes, pcapi) for entry in module.ENTRIES)
# How many examples of answers the contract has for each route, counted there by hand.
COUNTS = {
    "POST /pcapi/api/v1/cluster/common/node_label_opt": 2, "GET /pcapi/api/v1/cluster/common/determine_accommodat": 1,
    "POST /pcapi/api/v1/cluster/common/new_cluster": 2, "POST /pcapi/api/v1/cluster/common/new_worker": 2,
    "GET /pcapi/api/v1/cluster/common/get_cluster_pods": 2, "GET /pcapi/api/v1/cluster/common/get_cluster_nodes": 2,
    "POST /pcapi/api/v1/cluster/common/delete_cluster_node": 2, "POST /pcapi/api/v1/cluster/common/node_state_switch": 2,
    "POST /pcapi/api/v1/cluster/common/yaml_apply_delete": 2, "GET /dev/cpcc/cpclist/get_cpclist.dspy": 1,
    "POST /dev/cpcc/cpclist/add_cpclist.dspy": 1, "POST /dev/cpcc/cpclist/update_cpclist.dspy": 2,
    "POST /dev/cpcc/cpclist/delete_cpclist.dspy": 1, "GET /dev/cpcc/cpcnode/get_cpcnode.dspy": 2,
    "POST /dev/cpcc/cpcnode/add_cpcnode.dspy": 1, "POST /dev/cpcc/cpcnode/update_cpcnode.dspy": 1,
    "POST /dev/cpcc/cpcnode/delete_cpcnode.dspy": 1, "GET /dev/cpcc/cpcnode/get_cpcidle_device.dspy": 1,
    "GET /dev/cpcc/cpclabel/get_cpclabel.dspy": 2, "POST /dev/cpcc/cpclabel/add_cpclabel.dspy": 1,
    "POST /dev/cpcc/cpclabel/delete_cpclabel.dspy": 1, "POST /dev/cpcc/cpclabel/setup_cpclabel.dspy": 1,
    "GET /dev/cpcc/cpccluster/get_cpccluster.dspy": 1, "POST /dev/cpcc/cpccluster/update_cpccluster.dspy": 1,
    "POST /dev/cpcc/cpccluster/new_cluster.dspy": 2, "POST /computing/cpcluster_delete.dspy": 1,
    "GET /dev/cpcc/cpcpod/get_cpcpod.dspy": 1, "GET /dev/cpcc/cpcworker/get_cpcworker.dspy": 1,
    "POST /dev/cpcc/cpcworker/new_cpcworker.dspy": 1, "POST /": 1,
    "POST /dev/cpcc/cpcpodyaml/new_cpcpodyaml.dspy": 1, "GET /dev/cpcc/cpcpodyaml/get_cpcpodyaml.dspy": 1,
    "POST /dev/cpcc/cpcpodyaml/update_cpcpodyaml.dspy": 1, "POST /dev/cpcc/cpcpodyaml/delete_cpcpodyaml.dspy": 1,
    "POST /dev/cpcc/cpcwidget/add_cpcwidget.dspy": 2, "GET /dev/cpcc/cpcwidget/get_cpcwidget.dspy": 1,
    "GET /dev/cpcc/cpcwidget/accrual_price.dspy": 4, "POST /dev/cpcc/cpcwidget/update_cpcwidget.dspy": 1,
    "POST /dev/cpcc/cpcwidget/delete_cpcwidget.dspy": 1, "GET /dev/cpcc/cpcwidget/obtaining_gpuinfo.dspy": 2,
    "GET /dev/cpcc/cpcbuy/determine_accommodat.dspy": 1,
}


@pytest.fixture
def make_world(make_api: Callable[..., Api], time_passes: ManualClock, monkeypatch: pytest.MonkeyPatch,
               ) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:
        yield lambda **flags: World(make_api(**{
            "centres.batch_clouds": "no", "centres.api_user": PAIR[0], "centres.api_password": PAIR[1], **flags}),
            time_passes, monkeypatch, stack)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_an_example(entry: Entry, language: str, make_world: Callable[..., World]) -> None:
    world = make_world(**entry.flags)
    given = {**entry.request, **(entry.before(world) or {})}
    answer = world.play(entry, given, language)
    assert answer.status_code == 200, answer.text
    check(entry.expected(language), answer.json)
    (check_english if language == "en" else check_chinese)(entry, answer.json, world.said)


def test_every_example_is_there() -> None:
    assert {route: len(found["answers"]) for route, found in EXAMPLES.items()} == COUNTS
    assert sum(COUNTS.values()) == 58
    played = Counter((entry.route, entry.number) for entry in ENTRIES)
    missing = [(route, number) for route, count in COUNTS.items() for number in range(1, count + 1) if not played[route, number]]
    assert missing == []


def test_every_route_has_its_examples() -> None:
    table, played = routes.table(), Counter(entry.path for entry in ENTRIES)
    wanted = {entry.path: COUNTS[entry.route] for entry in ENTRIES}
    assert len(wanted) == len(COUNTS) == 41
    assert {path: count for path, count in wanted.items() if played[path] < count} == {}
    assert wanted.keys() <= table.keys() and all(entry.method in table[entry.path].methods for entry in ENTRIES)


def test_every_parameter_is_said() -> None:
    """Under the names of the contract, as odd as they are."""
    said: dict[str, set[str]] = {}
    for entry in ENTRIES:
        said.setdefault(entry.route, set()).update(entry.request)
    missing = {route: set(found["parameters"]) - said[route] for route, found in EXAMPLES.items()}
    assert not any(missing.values()), missing


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_a_difference_is_one_and_has_a_reason(entry: Entry) -> None:
    found = entry.seed
    for one in entry.differs:
        before, found = found, put(found, one.path, one.ours, before=one.before)
        assert list(one.why.split(" "))[3:], f"{one.path}: no reason"
        assert repr(found) != repr(before), f"{one.path} is the contract's"
    for path, text in entry.english.items():
        assert repr(put(found, path, text, known=True)) != repr(found), f"{path} is the same in both languages"
