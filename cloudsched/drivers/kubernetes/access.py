"""Which API server is it, and who are we there? A kubeconfig, or the account of the pod we run in.

A kubeconfig given as text came over the network: it may name no file of this machine and no program. One that is a file
of this machine may name files beside it. Programs (`exec`) are run only when the cloud's option `allow_exec` says so.
Keys are read into memory and never written to a disk.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
import yaml  # type: ignore[import-untyped]
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from urllib3.exceptions import InsecureRequestWarning

from cloudsched.drivers.base import Place
from cloudsched.drivers.kubernetes.options import Options
from cloudsched.errors import Invalid

FIELD = "kubeconfig"
DEFAULT_NAMESPACE = "default"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PROGRAMS = ("exec", "auth-provider")
_FILES = {"cluster": ("certificate-authority",), "user": ("client-certificate", "client-key", "tokenFile")}


@dataclass(frozen=True)
class Access:
    """A client, the namespace its context names, and what the server is called in messages."""

    client: ApiClient
    namespace: str
    server: str
    verifies: bool = True

    def __repr__(self) -> str:
        return f"Access({self.server!r})"


def open_access(place: Place, options: Options) -> Access:
    """Invalid at `kubeconfig` (or `context`) when it cannot be used; the message repeats nothing of its contents."""
    if options.in_cluster:
        return _in_cluster()
    text = place.credentials.get("kubeconfig", "")
    if text:
        return _from_text(text, options, folder=None, state_dir=place.state_dir, chosen="allow_exec" in place.options)
    if not options.kubeconfig:
        raise Invalid.at(FIELD, "is missing", "its text in the credentials, its path in the options, or in_cluster=true")
    path = Path(options.kubeconfig).expanduser()
    try:
        text = path.read_text()
    except OSError as error:
        raise Invalid.at(FIELD, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid.at(FIELD, f"{path} is not text") from None
    return _from_text(text, options, folder=path.parent, state_dir=place.state_dir)


def _from_text(text: str, options: Options, *, folder: Path | None, state_dir: str, chosen: bool = False) -> Access:
    """`chosen`: whether programs may run was decided already, and whoever gave the text has no options."""
    config = _parsed(text)
    context = _context(config, options.context)
    cluster, user = _named(config, "cluster", context), _named(config, "user", context)
    namespace = str(context.get("namespace") or DEFAULT_NAMESPACE)
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise Invalid.at(FIELD, "the cluster of the context has no server", "https://host:port")
    programs = [one for one in _PROGRAMS if user.get(one)]
    if programs and not options.allow_exec:
        if chosen:
            raise Invalid.at(FIELD, f"the user of the context runs a program ({programs[0]}); use a token or a certificate")
        raise Invalid.at(FIELD, f"the user of the context runs a program ({programs[0]}); use a token or a certificate, "
                         "or set the option allow_exec=true if you trust it")
    if folder is None:
        named = [one for sort, part in (("cluster", cluster), ("user", user)) for one in _FILES[sort] if part.get(one)]
        if named:
            instead = "token" if named[0] == "tokenFile" else f"{named[0]}-data"
            raise Invalid.at(FIELD, f"given as text it cannot name files of the server ({named[0]})",
                             instead if chosen else f"{instead}, or the path of the kubeconfig in the options")
    if programs:
        return _through_program(config, options, namespace=namespace, server=server, state_dir=state_dir)
    return _through_data(cluster, user, namespace=namespace, server=server, folder=folder)


def _through_data(cluster: Mapping[str, Any], user: Mapping[str, Any], *, namespace: str, server: str,
                  folder: Path | None) -> Access:
    verify = not cluster.get("insecure-skip-tls-verify")
    if not verify:
        urllib3.disable_warnings(InsecureRequestWarning)  # once per request is no news: our own check says it
    configuration = _configuration(server)
    configuration.verify_ssl = verify
    if cluster.get("proxy-url"):
        configuration.proxy = str(cluster["proxy-url"])
    if cluster.get("tls-server-name"):
        configuration.tls_server_name = str(cluster["tls-server-name"])
    _authenticate(configuration, user, folder)
    client = ApiClient(configuration)
    if server.startswith("https://"):
        certificate, key = (_content(user, one, folder) for one in ("client-certificate", "client-key"))
        context = _tls(_content(cluster, "certificate-authority", folder), certificate, key, verify=verify)
        client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context
    return Access(client, namespace, _shown(server), verifies=verify)


def _authenticate(configuration: Configuration, user: Mapping[str, Any], folder: Path | None) -> None:
    if user.get("tokenFile") and folder is not None:
        path = folder / str(user["tokenFile"])
        configuration.refresh_api_key_hook = _token_reader(path)  # type: ignore[assignment]  # it is replaced now and then
        configuration.api_key["BearerToken"] = ""
    elif user.get("token"):
        configuration.api_key["BearerToken"] = f"Bearer {user['token']}"
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        configuration.api_key["BearerToken"] = "Basic " + base64.b64encode(pair).decode()


def _token_reader(path: Path) -> Callable[[Configuration], None]:
    def read(configuration: Configuration) -> None:
        try:
            configuration.api_key["BearerToken"] = f"Bearer {path.read_text().strip()}"
        except OSError:  # the server will say that the old one is not valid
            pass

    return read


def _tls(authority: bytes, certificate: bytes, key: bytes, *, verify: bool) -> ssl.SSLContext:
    try:
        if verify:
            context = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # authorities of clusters often lack what it asks for
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate and key:
            _load_pair(context, certificate, key)
    except (ssl.SSLError, ValueError):
        raise Invalid.at(FIELD, "a certificate or key of the context cannot be read", "PEM in base64") from None
    if bool(certificate) != bool(key):
        raise Invalid.at(FIELD, "a client certificate and its key come together")
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """The library takes a path alone: this one is memory."""
    handle = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _through_program(config: dict[str, Any], options: Options, *, namespace: str, server: str, state_dir: str) -> Access:
    from kubernetes.config import ConfigException, load_kube_config_from_dict

    configuration = _configuration(server)
    load: Callable[..., None] = load_kube_config_from_dict
    try:
        load(config, context=options.context or None, client_configuration=configuration, persist_config=False,
             temp_file_path=state_dir or None)
    except (ConfigException, OSError, KeyError, TypeError, ValueError) as error:
        raise Invalid.at(FIELD, f"cannot be used ({type(error).__name__})") from None
    configuration.retries = False
    return Access(ApiClient(configuration), namespace, _shown(server), verifies=bool(configuration.verify_ssl))


def _in_cluster() -> Access:
    from kubernetes.config import ConfigException, load_incluster_config

    configuration = _configuration("https://kubernetes.default.svc")
    load: Callable[..., None] = load_incluster_config
    try:
        load(client_configuration=configuration)
    except ConfigException:
        raise Invalid.at("in_cluster", "we do not run in a pod, or its service account has no token") from None
    try:
        namespace = (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        namespace = DEFAULT_NAMESPACE
    return Access(ApiClient(configuration), namespace, _shown(configuration.host))


def _configuration(server: str) -> Configuration:
    configuration = Configuration(host=server.rstrip("/"))
    if is_loopback(server):  # no proxy of the environment leads back to this machine
        configuration.proxy = None
    configuration.retries = False  # what may be repeated is known to the caller alone
    configuration.keep_alive = True
    configuration.connection_pool_maxsize = 16
    return configuration


def _parsed(text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Invalid.at(FIELD, "is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from None
    except (ValueError, RecursionError):  # a date there is none of, brackets without end
        raise Invalid.at(FIELD, "cannot be read", "a map with clusters, users and contexts") from None
    if not isinstance(config, dict) or not isinstance(config.get("contexts"), list):
        raise Invalid.at(FIELD, "is not a kubeconfig", "a map with clusters, users and contexts")
    return config


def _context(config: dict[str, Any], wanted: str) -> Mapping[str, Any]:
    name = wanted or str(config.get("current-context") or "")
    names = [str(one.get("name")) for one in config["contexts"] if isinstance(one, dict)]
    if not name:
        raise Invalid.at("context", "the kubeconfig has no current context", ", ".join(names))
    found = _by_name(config["contexts"], name, "context")
    if found is None:
        raise Invalid.at("context", f"there is no context {name!r} in the kubeconfig", ", ".join(names))
    return found


def _named(config: dict[str, Any], sort: str, context: Mapping[str, Any]) -> Mapping[str, Any]:
    name = context.get(sort)
    if sort == "user" and not name:
        return {}
    found = _by_name(config.get(sort + "s"), str(name), sort)
    if found is None:
        raise Invalid.at(FIELD, f"the {sort} of the context is not in it")
    return found


def _by_name(entries: Any, name: str, sort: str) -> Mapping[str, Any] | None:
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, dict) and one.get("name") == name:
            found = one.get(sort) or {}  # somebody without credentials may be written as nothing at all
            return found if isinstance(found, dict) and (found or sort == "user") else None
    return None


def _content(part: Mapping[str, Any], name: str, folder: Path | None) -> bytes:
    """What `name-data` holds, or the file `name`."""
    if part.get(name + "-data"):
        try:
            return base64.b64decode(str(part[name + "-data"]), validate=False)
        except (binascii.Error, ValueError):
            raise Invalid.at(FIELD, f"{name}-data is not base64") from None
    if part.get(name) and folder is not None:
        try:
            return (folder / str(part[name])).read_bytes()
        except OSError as error:
            raise Invalid.at(FIELD, f"{name} cannot be read: {error.strerror}") from None
    return b""


def is_loopback(url: str) -> bool:
    """Is it an address of this machine alone?"""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(server: str) -> str:
    """Without a user or password that somebody put into the URL."""
    scheme, _, rest = server.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
