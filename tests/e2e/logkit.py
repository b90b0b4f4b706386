"""What do the tests with a live logkit master share? Real `cloudsched logagent` processes, and callers of either side."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cloudsched.testing.instance import Instance

# Of a runner's state: what two reads, one after the other, must tell alike when nothing happens.
STEADY = ("name", "logpath", "readDataSize", "readDataCount", "lag", "runningStatus", "tag", "url")
Found = tuple[int, Any]


class Agent:
    """One log agent in a process of its own, on a port that stays its own when it is killed and started again."""

    def __init__(self, instance: Instance, folder: Path, *, port: int, tag: str, masters: Sequence[str], **more: Any) -> None:
        self.instance, self.folder, self.port, self.tag = instance, folder, port, tag
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir()
        config = {"bind_host": f"127.0.0.1:{port}", "cluster": {"enable": True, "master_url": list(masters), "tag": tag,
                                                               "heartbeat_s": 1}, **more}
        (folder / "agent.conf").write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "cloudsched", "logagent", "--config", str(self.folder / "agent.conf"),
                   "--log-level", "error"]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.instance.environment(), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def answers(self) -> bool:
        try:
            return self.instance.call("GET", "/logkit/cluster/ping", port=self.port).status == 200
        except OSError:
            return False

    def own(self, path: str) -> Any:
        """What it says itself; the payload."""
        answer = self.instance.call("GET", f"/document/logkit{path}", port=self.port)
        assert answer.status == 200, answer.text
        return answer.json

    def runner(self, name: str) -> dict[str, Any] | None:
        """The state of one of its runners."""
        found: dict[str, Any] | None = self.own("/status").get(name)
        return found

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self, stopped: bool) -> None:
        """It hangs: its port takes connections, and nobody answers; or it goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        assert self.process.wait(60) == 0


class Master:
    """The calls of the document, at one port."""

    def __init__(self, instance: Instance, port: int) -> None:
        self.instance, self.port = instance, port
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, body: Any = None, **filters: str) -> Found:
        query = f"?{urlencode(filters)}" if filters else ""
        answer = self.instance.call(method, f"/logkit/cluster{path}{query}", body, port=self.port)
        return answer.status, answer.json

    def get(self, path: str, **filters: str) -> Any:
        status, found = self.call("GET", path, **filters)
        assert status == 200, found
        return found

    def done(self, method: str, path: str, body: Any = None, **filters: str) -> None:
        """An operation that all matching agents do."""
        assert self.call(method, path, body, **filters) == (200, None)

    def failed(self, method: str, path: str, body: Any = None, **filters: str) -> dict[str, str]:
        """An operation that some fail: URL -> error, from a 503 of the documented form."""
        status, found = self.call(method, path, body, **filters)
        assert status == 503, found
        for url, entry in found.items():
            assert set(entry) == {"url", "tag", "mgrType", "error"} and entry["url"] == url and entry["error"], entry
        return {url: entry["error"] for url, entry in found.items()}

    def tags(self) -> dict[str, str]:
        """URL -> tag of all that are ok."""
        return {one["url"]: one["tag"] for one in self.get("/slaves") if one["status"] == "ok"}


class Fleet:
    """An instance with its logkit listener, and agents of it."""

    def __init__(self, instance: Instance, folder: Path, masters: Sequence[Master]) -> None:
        self.instance, self.folder, self.masters = instance, folder, list(masters)
        self.agents: list[Agent] = []
        self.log, self.out = folder / "app.log", folder / "out.json"
        self.log.write_text("")
        self._lines = 0

    @property
    def master(self) -> Master:
        return self.masters[0]

    def add(self, ports: Sequence[int], tags: Sequence[str], **more: Any) -> list[Agent]:
        """Agents with these tags in turn, up and registered at every master."""
        urls = [master.url for master in self.masters]
        made = [Agent(self.instance, self.folder / f"agent{port}", port=port, tag=tags[index % len(tags)], masters=urls, **more)
                for index, port in enumerate(ports)]
        for agent in made:
            agent.start()
        self.agents += made
        self.until_registered()
        return made

    def until_registered(self) -> None:
        """Every agent answers, and every master knows it with its tag."""
        wanted = {agent.url: agent.tag for agent in self.agents}
        self.instance.until(lambda: all(agent.answers() for agent in self.agents), "all agents answer", limit_s=60)
        self.instance.until(lambda: all(master.tags() == wanted for master in self.masters), "all agents are known", limit_s=60)

    def of(self, *tags: str) -> list[Agent]:
        return [agent for agent in self.agents if agent.tag in tags]

    def urls(self, *tags: str) -> set[str]:
        return {agent.url for agent in self.of(*tags)}

    def config(self, **more: Any) -> dict[str, Any]:
        """A runner that copies app.log to out.json; agents share both files."""
        return {"name": "runner-xxx", "batch_len": 10, "batch_interval": 1, "parser": {"type": "raw"},
                "reader": {"mode": "file", "log_path": str(self.log), "stat_interval": "100ms"},
                "senders": [{"sender_type": "file", "file_send_path": str(self.out)}], **more}

    def write(self, count: int) -> range:
        """Lines to app.log; returns their numbers."""
        lines = range(self._lines, self._lines + count)
        with self.log.open("a") as file:
            file.write("".join(f"line {number}\n" for number in lines))
        self._lines += count
        return lines

    def copies(self, lines: range) -> set[int]:
        """How many times each of these lines has come: one number when all came equally often."""
        text = self.out.read_bytes() if self.out.exists() else b""
        found = Counter(record["raw"] for line in text.splitlines() if line.endswith(b"]") for record in json.loads(line))
        return {found[f"line {number}\n"] for number in lines}

    def until_copies(self, lines: range, times: int) -> None:
        """Each agent that has the runner has delivered these lines."""
        self.instance.until(lambda: self.copies(lines) == {times}, f"{lines} came {times} times, now {self.copies(lines)}")

    def check_reads(self, *, away: Sequence[Agent] = ()) -> None:
        """What every master tells of each agent is what that agent tells itself."""
        here = [agent for agent in self.agents if agent not in away]
        for master in self.masters:
            configs = master.get("/configs")
            assert set(configs) == {agent.url for agent in self.agents}
            for agent in here:
                assert configs[agent.url] == {"configs": agent.own("/configs"), "tag": agent.tag, "error": ""}
            # A runner that has just delivered counts that a moment later.
            self.instance.until(lambda master=master: self._same_states(master, here), "states are those of the agents")
            assert all(configs[agent.url]["error"] and master.get("/status")[agent.url]["error"] for agent in away)
            assert master.get("/runners") == sorted({name for agent in here for name in agent.own("/runners")})

    def _same_states(self, master: Master, agents: Sequence[Agent]) -> bool:
        told = master.get("/status")
        assert set(told) == {agent.url for agent in self.agents}
        assert [(told[agent.url]["tag"], told[agent.url]["error"]) for agent in agents] == [(agent.tag, "") for agent in agents]
        return all(_steady(told[agent.url]["status"]) == _steady(agent.own("/status")) for agent in agents)

    def stop(self) -> None:
        for agent in self.agents:
            agent.stop()


def _steady(states: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: state.get(key) for key in STEADY} for name, state in states.items()}
