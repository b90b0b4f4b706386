"""Are the files in etc/ what the readers accept?"""

from pathlib import Path

from cloudsched.classic import ini
from cloudsched.classic.clouds_conf import read_clouds
from cloudsched.classic.limits import read_aliases, read_user_limits
from cloudsched.classic.server_conf import parse_server_conf

ETC = Path(__file__).parents[3] / "etc"


def test_cloud_scheduler_conf():
    conf = parse_server_conf(ETC / "cloud_scheduler.conf")
    assert conf.notes == ()
    assert (conf.general.info_server_port, conf.general.admin_server_port) == (8111, 8112)
    assert conf.general.cloud_resource_config == "/etc/cloudscheduler/cloud_resources.conf"


def test_cloud_scheduler_conf_with_every_line_switched_on(tmp_path):
    text = (ETC / "cloud_scheduler.conf").read_text()
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") and len(line) > 1 else line
             for line in text.splitlines()]
    path = tmp_path / "all.conf"
    path.write_text("\n".join(lines))
    conf = parse_server_conf(path)
    assert conf.notes == ()
    assert len(conf.given) > 70


def test_cloud_resources_conf():
    result = read_clouds(ETC / "cloud_resources.conf")
    assert result.problems == ()
    assert [(c.name, c.cloud_type, c.enabled) for c in result.clouds] == [("desk", "Local", True),
                                                                        ("bench", "Local", True)]


def test_the_clouds_that_are_commented_out_are_valid_too(tmp_path):
    path = tmp_path / "all.conf"
    path.write_text("\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line
                              for line in (ETC / "cloud_resources.conf").read_text().splitlines()))
    result = read_clouds(path)
    assert result.problems == ()
    assert len(result.clouds) == len(ini.load(path)) == 10


def test_limits_and_aliases():
    limits = read_user_limits(ETC / "user_limits.json")
    aliases = read_aliases(ETC / "cloud_alias.json")
    assert limits.limits == {"alice": 20, "bob": 10, "guest": 0}
    assert aliases.expand("here") == ("desk", "bench")
    assert limits.problems == aliases.problems == ()
