"""Where does a test get an EC2 API? moto's HTTP server, in a Python environment of its own (its needs exclude ours)."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest

from cloudsched.drivers.ec2.calls import Ec2, Ec2Endpoint
from cloudsched.drivers.ec2.instances import filtered

REGION = "us-east-1"
START_LIMIT_S = 60.0
BESIDE = Path(__file__).resolve().parents[3] / ".venv-moto"


class Moto:
    """A running server. `owner`: the installation whose machines the running test looks at."""

    owner = ""

    def __init__(self, url: str) -> None:
        self.url = url
        self.api = Ec2(Ec2Endpoint(url, REGION, "somebody", "else"))

    def call(self, action: str, **params: str) -> ET.Element:
        """Behind everybody's back."""
        return self.api.call(action, params)

    @cached_property
    def image(self) -> str:
        """Some image of a usual machine."""
        found = self.api.call("DescribeImages", filtered({"root-device-type": "ebs", "architecture": "x86_64"}))
        return found.findtext("imagesSet/item/imageId") or ""

    def instances(self, *, dead: bool = False) -> list[ET.Element]:
        """What the test's installation has there, and with `dead` what it had."""
        found = self.api.call("DescribeInstances", filtered({"tag:cloudsched-instance": self.owner}))
        return [item for item in found.findall("reservationSet/item/instancesSet/item")
                if dead or item.findtext("instanceState/name") not in ("terminated", "shutting-down")]

    def key(self, name: str) -> None:
        """A key pair of that name."""
        if self.api.call("DescribeKeyPairs", filtered({"key-name": name})).find("keySet/item") is None:
            self.call("CreateKeyPair", KeyName=name)

    def iam_user(self, *, allowed: list[str]) -> dict[str, str]:
        """Credentials of somebody who may do these things alone."""
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": allowed, "Resource": "*"}]}
        self._iam("CreateUser", UserName=self.owner)
        self._iam("PutUserPolicy", UserName=self.owner, PolicyName="all", PolicyDocument=json.dumps(policy))
        found = self._iam("CreateAccessKey", UserName=self.owner)
        return {"access_key_id": re.findall("<AccessKeyId>(.*?)</", found)[0],
                "secret_access_key": re.findall("<SecretAccessKey>(.*?)</", found)[0]}

    @contextmanager
    def checking_signatures(self) -> Iterator[None]:
        """Within, signatures and policies count."""
        self._post("/moto-api/reset-auth", "0", **{"Content-Type": "text/plain"})
        try:
            yield
        finally:
            self._post("/moto-api/reset-auth", "inf", **{"Content-Type": "text/plain"})

    def _iam(self, action: str, **params: str) -> str:
        # moto finds the service by what the request was signed for; it does not look at the signature now.
        scope = "Credential=x/20240101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x"
        return self._post("/", urlencode({"Action": action, "Version": "2010-05-08", **params}),
                          Authorization=f"AWS4-HMAC-SHA256 {scope}")

    def _post(self, path: str, body: str, **headers: str) -> str:
        request = urllib.request.Request(self.url + path, data=body.encode(), headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def user_data(self, instance: str) -> bytes:
        """What the machine would get."""
        found = self.call("DescribeInstanceAttribute", InstanceId=instance, Attribute="userData")
        return base64.b64decode(found.findtext("userData/value") or "")


def command() -> list[str]:
    """How moto's server is started; skips the test when there is none."""
    given = os.environ.get("CLOUDSCHED_TEST_MOTO", "")
    for path in filter(None, [given, str(BESIDE / "bin" / "moto_server"), str(BESIDE / "bin" / "python")]):
        if os.access(path, os.X_OK):
            return [path] if Path(path).name == "moto_server" else [path, "-m", "moto.server"]
    pytest.skip(f"no moto: neither CLOUDSCHED_TEST_MOTO ({given or 'not set'}) nor {BESIDE.name} in the checkout has one")


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """One server for all tests of the session."""
    start = command()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("moto")
    env = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "INITIAL_NO_AUTH_ACTION_COUNT": "inf"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*start, "-H", "127.0.0.1", "-p", str(port)], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, cwd=folder, env=env)
    try:
        _wait(process, f"http://127.0.0.1:{port}", folder / "log")
        yield Moto(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def moto(moto_server: Moto) -> Iterator[Moto]:
    """The server, with an installation of its own for each test."""
    moto_server.owner = f"test-{uuid.uuid4()}"
    yield moto_server


def _wait(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            urllib.request.urlopen(url + "/moto-api/data.json", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"moto does not start: {log.read_text()[-2000:]}") from None
        time.sleep(0.1)
