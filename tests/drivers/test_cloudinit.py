"""Is the user data what cloud-init reads, and does the start script start the agent?"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import random
import subprocess
import threading
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import options
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Place, Wanted
from cloudsched.drivers.cloudinit import AgentSetup, agent_script, combine, user_data
from cloudsched.drivers.given import Given
from cloudsched.errors import Invalid

WANTED = Wanted("node-1", 7, 2, 2048, 10, join_token="very-secret-token", server_url="http://10.0.0.1:8100", slots=2)
SETUP = AgentSetup(server_url="http://10.0.0.1:8100")


def made(wanted: Wanted = WANTED, setup: AgentSetup = SETUP, limit_bytes: int = 16384) -> bytes:
    return user_data(wanted, setup, kind="AmazonEC2", cloud="amazon", limit_bytes=limit_bytes)


def config(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"#cloud-config\n")
    found: dict[str, Any] = json.loads(data.split(b"\n", 1)[1])
    return found


def files(data: bytes) -> dict[str, dict[str, str]]:
    return {one["path"]: one for one in config(data)["write_files"]}


def parts(data: bytes) -> list[tuple[str, str | None, bytes]]:
    message = message_from_bytes(data)
    assert message.get_content_type() == "multipart/mixed" and not message.defects
    return [(part.get_content_type(), part.get_filename(), part.get_payload(decode=True) or b"")  # type: ignore[list-item]
            for part in message.walk() if not part.is_multipart()]


def test_our_part() -> None:
    data = made()
    written = files(data)
    token = written["/etc/cloudsched/token"]
    assert (token["content"], token["permissions"], token["owner"]) == ("very-secret-token\n", "0600", "root:root")
    assert data.count(b"very-secret-token") == 1
    assert written["/var/lib/cloud_type"]["content"] == "AmazonEC2\n"
    assert written["/var/lib/cloud_name"]["content"] == "amazon\n"
    assert "/etc/condor/central_manager" not in written
    assert config(data)["merge_how"][0] == {"name": "list", "settings": ["append"]}
    assert made() == data, "the same machine gets the same bytes"


def test_the_batch_system_is_told_whose_jobs_to_start() -> None:
    setup = replace(SETUP, condor_host="head.example.org", override_vm_type=True)
    written = files(made(replace(WANTED, user='a"b', vm_type="big"), setup))
    assert written["/etc/condor/central_manager"]["content"] == "head.example.org\n"
    changes = written["/etc/condor/condor_config.local.modifications"]["content"]
    assert changes == 'START=(Owner == "a\\"b")\nVMType = "big"\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [("#!/bin/sh\necho ü\r\n", "text/x-shellscript"), ("#cloud-config\npackages: [vim]\n", "text/cloud-config"),
     ("#cloud-config-archive\n- x\n", "text/cloud-config-archive"), ("#include\nhttp://x/\n", "text/x-include-url"),
     ("#include-once\nhttp://x/\n", "text/x-include-once-url"), ("#cloud-boothook\nls\n", "text/cloud-boothook"),
     ("## template: jinja\n#cloud-config\n", "text/jinja2")],
)  # fmt: skip
def test_the_users_part_comes_first_and_is_not_changed(text: str, kind: str) -> None:
    found = parts(made(replace(WANTED, user_data=text)))
    assert [(one[0], one[2]) for one in found] == [(kind, text.encode()), ("text/cloud-config", made())]


def test_several_files_stay_in_order_under_names_of_their_own() -> None:
    texts = ["#!/bin/sh\necho 1\n", "#!/bin/sh\necho 2\n", "#cloud-config\n{}\n"]
    joined = combine([texts[0], "", combine(texts[1:])])
    found = parts(made(replace(WANTED, user_data=joined)))
    assert [content.decode() for _, _, content in found[:3]] == texts
    names = [name for _, name, _ in found]
    assert names == sorted(names, key=str) and len(set(names)) == 4
    assert combine(["#!/bin/sh\n"]) == "#!/bin/sh\n"


@pytest.mark.parametrize("text", ["hello", "/etc/passwd", "Content-Type: multipart/mixed; boundary=x\n\nnothing", "\u0000"])
def test_what_cloud_init_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(DriverError, match="user_data: ") as caught:
        made(replace(WANTED, user_data=text))
    assert caught.value.code == base.REQUEST


def test_what_is_too_long_is_compressed_and_then_refused() -> None:
    long = replace(WANTED, user_data="#!/bin/sh\n" + "echo again\n" * 5000)
    packed = made(long)
    assert len(packed) <= 16384
    assert gzip.decompress(packed) == made(long, limit_bytes=1 << 20)
    assert made(long) == packed
    noise = random.Random(1).randbytes(20_000).hex()
    with pytest.raises(DriverError, match=r"user_data: is too long: \d+ bytes compressed .* 16384 are allowed"):
        made(replace(WANTED, user_data=f"#!/bin/sh\n# {noise}\n"))


def test_a_machine_needs_an_address_to_call() -> None:
    with pytest.raises(DriverError, match="server_url: ''"):
        made(replace(WANTED, server_url=""), AgentSetup())


@pytest.mark.parametrize(
    ("url", "option", "fine"),
    [("http://127.0.0.1:8100", "", False), ("http://localhost:8100", "", False), ("http://[::1]:8100", "", False),
     ("http://10.0.0.1:8100", "", True), ("http://127.0.0.1:8100", "http://127.0.0.1:9", True), ("", "", True)],
)  # fmt: skip
def test_the_server_address_is_checked(url: str, option: str, fine: bool) -> None:
    setup = AgentSetup.of(Given(Place("one", "AmazonEC2", {"server_url": option}, server_url=url)))
    assert setup.check().ok is fine
    assert setup.server_url == (option or url)


def test_wrong_options_are_named() -> None:
    for given, field in (({"server_url": "ftp://x"}, "server_url"), ({"log_level": "loud"}, "log_level"),
                           ({"orphan_timeout_s": "soon"}, "orphan_timeout_s"), ({"power_off": 7}, "power_off")):
        with pytest.raises(Invalid) as caught:
            AgentSetup.of(Given(Place("one", "AmazonEC2", given)))
        assert caught.value.errors[0].field == field


def test_an_image_that_has_the_agent_fetches_nothing() -> None:
    text = agent_script(WANTED, replace(SETUP, agent_image=True, guard_metadata=False, power_off=False), "http://h:1")
    assert "agent.pyz" not in text and "urllib" not in text and "shutdown" not in text
    assert "cloudsched-agent --server=http://h:1 " in text


AGENT = """\
import json, os, sys
folder = os.path.dirname(__file__)
starts = os.path.join(folder, "starts")
with open(starts, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
sys.exit(0 if len(open(starts).readlines()) == 2 else 3)
"""


def test_the_script_fetches_the_agent_and_starts_it_again(tmp_path: Path) -> None:
    """A rehearsal below another root: the first fetch fails, the first agent fails, the second ends well."""
    answers = [503, 200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answers[len(asked) - 1])
            self.end_headers()
            self.wfile.write(AGENT.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Not here."""

    asked: list[str] = []
    root = tmp_path / "machine"
    for folder in ("opt/cloudsched", "etc/cloudsched"):
        (root / folder).mkdir(parents=True)
    (root / "etc/cloudsched/token").write_text("t\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    texts = {"sleep": "", "shutdown": f"echo $@ > {tmp_path}/off", "iptables": f"echo $@ >> {tmp_path}/rules; exit 1"}
    for name, text in texts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        wanted = replace(WANTED, name="-rf 'x' $(id)")
        text = agent_script(wanted, replace(SETUP, tags=("gpu", "big")), url, root=str(root))
        done = subprocess.run(["sh", "-c", text], env={"PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, text=True,
                              timeout=60, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert asked == ["/agent.pyz", "/agent.pyz"]
    assert not (root / "etc/cloudsched/token").exists()
    starts = [json.loads(line) for line in (root / "opt/cloudsched/starts").read_text().splitlines()]
    assert len(starts) == 2 and starts[0] == starts[1]
    assert starts[0] == [
        f"--server={url}", f"--token-file={root}/etc/cloudsched/token", "--name=-rf 'x' $(id)",
        f"--work-dir={root}/var/lib/cloudsched/agent", "--cores=2", "--slots=2", "--orphan-timeout=3600", "--log-level=info",
        "--memory-mb=2048", "--storage-gb=10", "--run-as=nobody", "--tags=gpu,big"]
    (root / "etc/cloudsched/token").write_text("t\n")
    told = options.parse(starts[0])
    assert (told.name, told.cores, told.memory_mb, told.tags, told.token) == (wanted.name, 2, 2048, ["gpu", "big"], "t")
    assert (tmp_path / "off").read_text() == "-h now\n"
    assert "169.254.169.254/32 -m owner ! --uid-owner 0 -j REJECT" in (tmp_path / "rules").read_text()
    assert "the agent ended with 3" in done.stderr
