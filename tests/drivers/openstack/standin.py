"""What would an OpenStack answer? Keystone, Nova, Glance and Neutron as far as the driver uses them, in one server.

It refuses what the real services refuse, with their statuses and sentences: unknown members, bad base64, names with
blanks around them, quotas, unknown flavors, keys and groups, several networks with none named, old microversions.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cloudsched.testing.httpserver import HttpServer

MEMBERS = {"name", "flavorRef", "imageRef", "metadata", "user_data", "min_count", "max_count", "networks", "key_name",
           "availability_zone", "config_drive", "security_groups", "block_device_mapping_v2"}
PASSWORD, CREDENTIAL_SECRET = "very-secret-password", "very-secret-credential"


class Refusal(Exception):
    """An error answer of a service."""

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {word: {"code": status, "message": message}}


class OpenStack(HttpServer):
    """The cloud's state, and the server that shows it. A context manager; `url` is Keystone's."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tokens: dict[str, datetime] = {}
        self.token_life_s = 3600.0
        self.logins = 0
        self.servers: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.created = 0
        self.page = 100  # most servers in one answer
        self.microversion = 2.79
        self.quota = {"instances": 50, "cores": 200}
        self.full = False  # no host has room
        self.looks_to_build = 1
        self.soft_delete = False
        self.flavors = [flavor("m1.tiny", "1", 1, 512, 1), flavor("m1.large", "4", 4, 8192, 80), flavor("d2", "7", 2, 4096, 0),
                        flavor("g1", "9", 8, 16384, 80, {"pci_passthrough:alias": "a100:2"})]
        self.images = [image("debian-12", min_disk=2), image("debian-12", created="2020-01-01T00:00:00Z")]
        self.networks = [{"id": str(uuid.uuid4()), "name": "private"}]
        self.groups = ["default", "ssh only"]
        self.keys = ["ada"]
        stack = self

        class Handler(_Handler):
            cloud = stack

        super().__init__(Handler)

    def named(self, name: str) -> list[dict[str, Any]]:
        """Servers of that node name, as they are."""
        return [one for one in self.servers.values() if one["metadata"].get("cloudsched-node") == name]

    def user_data(self, name: str) -> bytes:
        """What the machine would get."""
        return base64.b64decode(self.named(name)[0]["user_data"])

    # -- Keystone ----------------------------------------------------------------------------------------------

    def login(self, body: Mapping[str, Any], base_url: str) -> tuple[str, dict[str, Any]]:
        self.logins += 1
        identity = body["auth"]["identity"]
        if identity["methods"] == ["password"]:
            user, project = identity["password"]["user"], body["auth"]["scope"]["project"]
            good = ((user["name"], user["password"], user["domain"]) == ("ada", PASSWORD, {"name": "People"})
                    and project == {"name": "physics", "domain": {"name": "Projects"}})
        else:
            good = identity["application_credential"] == {"id": "cred-1", "secret": CREDENTIAL_SECRET}
        if not good:
            raise Refusal(401, "error", "The request you have made requires authentication.")
        token = uuid.uuid4().hex
        ends = self.tokens[token] = datetime.now(UTC) + timedelta(seconds=self.token_life_s)
        services = {"compute": "/compute/v2.1", "image": "/image", "network": "/network"}
        catalog = [{"type": kind, "name": kind, "endpoints": [
            {"region": region, "region_id": region, "interface": interface, "id": uuid.uuid4().hex,
             "url": base_url + path if region == "One" and interface == "public" else "http://127.0.0.1:1/"}
            for region in ("One", "Two") for interface in ("public", "internal")]} for kind, path in services.items()]
        return token, {"token": {"expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.000000Z"), "catalog": catalog,
                                 "methods": identity["methods"], "user": {"name": "ada", "id": "u1"}, "roles": []}}

    # -- Nova --------------------------------------------------------------------------------------------------

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        given = body["server"]
        if extra := sorted(set(given) - MEMBERS):
            raise Refusal(400, "badRequest", f"Additional properties are not allowed ({extra[0]!r} was unexpected)")
        self._check(given)
        number = str(uuid.uuid4())
        kind = next(one for one in self.flavors if one["id"] == given["flavorRef"])
        self._check_quota(kind)
        facts = {"id": number, "name": given["name"], "metadata": given["metadata"], "user_data": given["user_data"],
                 "status": "BUILD", "looks": self.looks_to_build, "task": "scheduling", "flavor": {"id": kind["id"]},
                 "vcpus": kind["vcpus"], "created": f"2024-01-01T00:00:{self.created:09d}Z", "asked": dict(given), "fault": None}
        for mapping in given.get("block_device_mapping_v2", ()):
            self.volumes[number] = {"size": mapping["volume_size"], "kept": not mapping["delete_on_termination"]}
        self.created += 1
        self.servers[number] = facts
        return {"server": {"id": number, "links": [], "OS-DCF:diskConfig": "MANUAL", "adminPass": "x",
                           "security_groups": given.get("security_groups", [])}}

    def _check(self, given: Mapping[str, Any]) -> None:
        name = given["name"]
        if not 1 <= len(name) <= 255 or name != name.strip() or not name.isprintable():
            raise Refusal(400, "badRequest", f"Invalid input for field/attribute name. Value: {name}")
        if any(len(text) > 255 for pair in given["metadata"].items() for text in pair):
            raise Refusal(400, "badRequest", "Invalid metadata size: more than 255 characters")
        try:
            base64.b64decode(given["user_data"], validate=True)
        except binascii.Error:
            raise Refusal(400, "badRequest", "Userdata content cannot be decoded") from None
        if len(given["user_data"]) > 65535:
            raise Refusal(400, "badRequest", "Invalid input for field/attribute user_data: is too long")
        if given["flavorRef"] not in {one["id"] for one in self.flavors}:
            raise Refusal(400, "badRequest", f"Flavor {given['flavorRef']} could not be found.")
        source = given.get("imageRef") or given["block_device_mapping_v2"][0]["uuid"]
        if source not in {one["id"] for one in self.images}:
            raise Refusal(400, "badRequest", "Can not find requested image")
        if given.get("key_name", "ada") not in self.keys:
            raise Refusal(400, "badRequest", "Invalid key_name provided.")
        if missing := [one["name"] for one in given.get("security_groups", ()) if one["name"] not in self.groups]:
            raise Refusal(400, "badRequest", f"Security group {missing[0]} not found for project p1.")
        if "networks" not in given and len(self.networks) > 1:
            raise Refusal(409, "conflictingRequest", "Multiple possible networks found, use a Network ID to be more specific.")

    def _check_quota(self, kind: Mapping[str, Any]) -> None:
        used = {"instances": len(self.servers), "cores": sum(one["vcpus"] for one in self.servers.values())}
        for resource, more in (("instances", 1), ("cores", kind["vcpus"])):
            if used[resource] + more > self.quota[resource]:
                raise Refusal(403, "forbidden", f"Quota exceeded for {resource}: Requested {more}, but already used "
                                                f"{used[resource]} of {self.quota[resource]} {resource}")

    def look(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """Time passes with each look."""
        facts["looks"] -= 1
        if facts["looks"] <= 0:
            if facts["task"] == "deleting":
                if self.soft_delete and facts["status"] != "SOFT_DELETED":
                    facts.update(status="SOFT_DELETED", task="")
                    return self._shown(facts)
                self.servers.pop(facts["id"], None)
                if not self.volumes.get(facts["id"], {"kept": True})["kept"]:
                    del self.volumes[facts["id"]]
                return None
            if facts["status"] == "BUILD":
                facts.update({"status": "ERROR", "task": "", "fault": {
                    "code": 500, "message": "No valid host was found. There are not enough hosts available."}}
                    if self.full else {"status": "ACTIVE", "task": ""})
        return self._shown(facts)

    def _shown(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: facts[key] for key in ("id", "name", "metadata", "status", "flavor", "created")}
        ready = facts["status"] == "ACTIVE"
        addresses = [{"addr": "10.1.0.7", "version": 4, "OS-EXT-IPS:type": "fixed"},
                     {"addr": "2001:db8::7", "version": 6, "OS-EXT-IPS:type": "fixed"}]
        return {**shown, "OS-EXT-STS:task_state": facts["task"] or None, "addresses": {"private": addresses} if ready else {},
                **({"fault": facts["fault"]} if facts["fault"] else {})}

    def listing(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        every = sorted(self.servers.values(), key=lambda one: (one["created"], one["id"]), reverse=True)
        found = [one for one in every if "name" not in query or re.search(query["name"][0], one["name"])]
        if "marker" in query:
            found = found[1 + [one["id"] for one in found].index(query["marker"][0]):]
        limit = min(self.page, int(query.get("limit", ["1000"])[0]))
        shown = [facts for facts in map(self.look, found[:limit]) if facts]
        links = {"servers_links": [{"rel": "next", "href": "http://elsewhere/"}]} if len(found) > limit else {}
        return {"servers": shown, **links}

    def delete(self, number: str) -> None:
        self._server_of(number).update(task="deleting", looks=2)

    def act(self, number: str, body: Mapping[str, Any]) -> Any:
        facts = self._server_of(number)
        if "os-getConsoleOutput" in body:
            return {"output": f"booting {facts['name']}\n"}
        if "forceDelete" in body:
            facts.update(task="deleting", looks=1, status="SOFT_DELETED")
            return None
        raise Refusal(400, "badRequest", "There is no such action")

    def _server_of(self, number: str) -> dict[str, Any]:
        if number not in self.servers:
            raise Refusal(404, "itemNotFound", f"Instance {number} could not be found.")
        return self.servers[number]


def flavor(name: str, number: str, cores: int, memory_mb: int, disk_gb: int,
           specs: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"id": number, "name": name, "vcpus": cores, "ram": memory_mb, "disk": disk_gb, "swap": "",
            "OS-FLV-EXT-DATA:ephemeral": 0, "extra_specs": dict(specs or {})}


def image(name: str, *, min_disk: int = 0, created: str = "2024-01-01T00:00:00Z") -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "name": name, "status": "active", "min_disk": min_disk, "size": 300_000_000,
            "virtual_size": None, "created_at": created}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: no waiting for acknowledgements
    cloud: OpenStack

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        headers: dict[str, str] = {}
        try:
            with self.cloud.lock:
                status, answer = self._route(unquote(parts.path), parse_qs(parts.query), json.loads(raw or b"null"), headers)
        except Refusal as error:
            status, answer = error.status, error.body
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _serve

    def _route(self, path: str, query: Mapping[str, list[str]], body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        cloud, words = self.cloud, path.strip("/").split("/")
        if (self.command, path) == ("POST", "/v3/auth/tokens"):
            headers["X-Subject-Token"], answer = cloud.login(body, f"http://{self.headers['Host']}")
            return 201, answer
        ends = cloud.tokens.get(self.headers.get("X-Auth-Token", ""))
        if ends is None or ends < datetime.now(UTC):
            raise Refusal(401, "error", "The request you have made requires authentication.")
        if words[:2] == ["compute", "v2.1"]:
            return self._nova(words[2:], query, body)
        answers: dict[tuple[str, ...], Any] = {
            ("image", "v2", "images"): lambda: {"images": _named(cloud.images, query)},
            ("network", "v2.0", "networks"): lambda: {"networks": _named(cloud.networks, query)},
            ("network", "v2.0", "security-groups"): lambda: {"security_groups": [{"id": n, "name": n} for n in cloud.groups]}}
        if tuple(words) in answers:
            return 200, answers[tuple(words)]()
        found = [one for one in cloud.images if words == ["image", "v2", "images", one["id"]]]
        if found:
            return 200, found[0]
        raise Refusal(404, "itemNotFound", "The resource could not be found.")

    def _nova(self, words: list[str], query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        cloud = self.cloud
        asked = self.headers.get("OpenStack-API-Version", "compute 2.1").split()[1]
        if float(asked) > cloud.microversion:
            raise Refusal(406, "computeFault", f"Version {asked} is not supported by the API.")
        match (self.command, *words):
            case ("GET", "servers", "detail"):
                return 200, cloud.listing(query)
            case ("POST", "servers"):
                return 202, cloud.create(body)
            case ("GET", "servers", number):
                shown = cloud.look(cloud._server_of(number))
                if shown is None:
                    raise Refusal(404, "itemNotFound", f"Instance {number} could not be found.")
                return 200, {"server": shown}
            case ("DELETE", "servers", number):
                return 204, cloud.delete(number)
            case ("POST", "servers", number, "action"):
                return 200, cloud.act(number, body)
            case ("GET", "flavors", "detail"):
                plain = [dict(one) if float(asked) >= 2.61 else {k: v for k, v in one.items() if k != "extra_specs"}
                         for one in cloud.flavors]
                return 200, {"flavors": plain if "marker" not in query else []}
            case ("GET", "os-keypairs", name) if name in cloud.keys:
                return 200, {"keypair": {"name": name}}
        raise Refusal(404, "itemNotFound", "The resource could not be found.")

    def log_message(self, format: str, *args: Any) -> None:
        """Tests say what they expect."""


def _named(things: list[dict[str, Any]], query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    return [one for one in things if "name" not in query or one["name"] == query["name"][0]]
