"""Keys in URLs, certificates, issued tokens and signatures, each against a loopback issuer; none is ever shown."""

from __future__ import annotations

import datetime
import gzip
import json
import ssl
import sys

import numpy as np
import pytest
from fimaudit_adapters.http.trial import as_facts, try_endpoint

import fimaudit
from fimaudit.errors import MissingExtraError, ModelFailure, TargetError
from fimaudit.models.classifier import Options
from tests.servers import vendors

ROWS = np.random.default_rng(2).standard_normal((30, vendors.FEATURES))
FORMAT = {"request": {"x": "$rows"}, "response": "p", "kind": "probs", "batch": 10, "concurrency": 2}
SECRET = "s3cret value/+="


def answer(asked):
    return {"p": vendors.table(asked.json["x"])}


def contents(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_key_in_the_url_is_sent_and_shown_nowhere(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("URL_KEY", SECRET)

    def keyed(asked):
        assert asked.query == {"key": SECRET, "v": "2"}
        return answer(asked)

    with vendors.serving({"m": keyed}) as server:
        options = {"url_query_env": {"key": "URL_KEY"}, "url_query": {"v": 2}, "trust_env": False, **FORMAT}
        report = fimaudit.audit(f"{server.url}/m", ROWS[:2], queries=20, out=tmp_path / "run", profile="off", **options)
        trial = try_endpoint(f"{server.url}/m", Options(extra=options), ROWS[:1])
    assert not server.errors
    assert trial.error is None
    assert "[secret]" in trial.request
    for said in (report.to_json(), json.dumps(as_facts(trial)), capsys.readouterr().out):
        assert "s3cret" not in said
    assert b"s3cret" not in contents(tmp_path)


class Issuer:
    """Issues numbered tokens; the model takes the newest only."""

    def __init__(self, seconds=3600):
        self.issued, self.seconds, self.forms = 0, seconds, []

    def token(self, asked):
        self.forms.append((asked.headers.get("authorization"), asked.body.decode()))
        self.issued += 1
        return {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": self.seconds}

    def model(self, asked):
        if asked.headers.get("authorization") != f"Bearer token-{self.issued}":
            return vendors.Said({"error": "the token has expired"}, 401)
        return answer(asked)


@pytest.fixture
def oauth(monkeypatch):
    pytest.importorskip("authlib")
    monkeypatch.setenv("CLIENT", "me")
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    return {"client_id_env": "CLIENT", "client_secret_env": "CLIENT_SECRET", "scope": "a b"}


def test_tokens_are_issued_renewed_before_they_expire_and_on_401(oauth, connect):
    issuer = Issuer()
    with vendors.serving({"m": issuer.model, "token": issuer.token}) as server:
        said = {**oauth, "token_url": f"{server.url}/token"}
        model = connect(f"{server.url}/m", oauth=said, **FORMAT)
        assert np.allclose(model.probabilities(ROWS[:10]), vendors.table(ROWS[:10]))
        assert issuer.issued == 1
        authorization, form = issuer.forms[0]
        assert authorization.startswith("Basic ")
        assert "grant_type=client_credentials" in form
        assert "scope=a+b" in form
        issuer.issued += 1  # as if revoked
        assert np.allclose(model.probabilities(ROWS), vendors.table(ROWS))
        assert issuer.issued == 3
    short = Issuer(seconds=0)
    with vendors.serving({"m": short.model, "token": short.token}) as server:
        model = connect(f"{server.url}/m", oauth={**oauth, "token_url": f"{server.url}/token"}, concurrency=1, batch=10,
                        request={"x": "$rows"}, response="p", kind="probs")  # fmt: skip
        model.probabilities(ROWS)
        assert short.issued >= 3


def test_an_issuer_that_refuses_is_named_without_the_secret(oauth, connect):
    def refuse(asked):
        return vendors.Said({"error": "invalid_client", "error_description": f"bad {SECRET}"}, 401)

    with vendors.serving({"m": answer, "token": refuse}) as server:
        said = {**oauth, "token_url": f"{server.url}/token"}
        with pytest.raises(TargetError, match="gave no token") as raised:
            connect(f"{server.url}/m", oauth=said, **FORMAT).probabilities(ROWS[:1])
    assert "s3cret" not in str(raised.value)


def test_a_refusal_that_a_plugin_has_read_is_said(connect, tmp_path, monkeypatch):
    """Its body was gone then: the refusal was taken for a broken connection, and sent again."""
    plugin = "import httpx\nclass Reads(httpx.Auth):\n    requires_response_body = True\n    def auth_flow(self, request):\n"
    (tmp_path / "vendor_reads.py").write_text(plugin + "        yield request\n")
    monkeypatch.syspath_prepend(tmp_path)
    refusal = vendors.Said(gzip.compress(b"no such project"), 403, {"Content-Encoding": "gzip"})
    with vendors.serving({"m": lambda asked: refusal}) as server:
        model = connect(f"{server.url}/m", auth="vendor_reads:Reads", **FORMAT)
        with pytest.raises(TargetError, match=r"HTTP 403.*no such project"):
            model.probabilities(ROWS[:1])


def test_a_401_that_nothing_renews_ends_the_run_at_once(monkeypatch, connect):
    monkeypatch.setenv("TOKEN", "token-9")
    issuer = Issuer()
    with vendors.serving({"m": issuer.model}) as server:
        with pytest.raises(TargetError, match="401"):
            connect(f"{server.url}/m", bearer_env="TOKEN", **FORMAT).probabilities(ROWS[:1])
        assert len(server.asked) == 1


def test_a_token_file_that_was_replaced_is_read_again_on_401(tmp_path, connect):
    file = tmp_path / "token"
    file.write_text("token-0")
    issuer = Issuer()

    def rotate(asked):
        """The file changes between the request and its refusal."""
        if file.read_text() == "token-0":
            file.write_text("token-1")
            issuer.issued = 1
            return vendors.Said({"error": "expired"}, 401)
        return issuer.model(asked)

    with vendors.serving({"m": rotate}) as server:
        model = connect(f"{server.url}/m", bearer_file=str(file), **FORMAT)
        assert np.allclose(model.probabilities(ROWS[:1]), vendors.table(ROWS[:1]))
        assert len(server.asked) == 2


def test_google_service_accounts(tmp_path, monkeypatch, connect):
    pytest.importorskip("google.auth")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    issuer = Issuer()
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with vendors.serving({"m": issuer.model, "token": issuer.token}) as server:
        account = {"type": "service_account", "client_email": "a@b", "private_key": key.decode(), "private_key_id": "1",
                   "token_uri": f"{server.url}/token", "project_id": "p"}  # fmt: skip
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("ACCOUNT", str(tmp_path / "account.json"))
        model = connect(f"{server.url}/m", google={"service_account_env": "ACCOUNT"}, **FORMAT)
        assert np.allclose(model.probabilities(ROWS[:10]), vendors.table(ROWS[:10]))
        assert "assertion=ey" in issuer.forms[0][1]
        issuer.issued += 1
        model.probabilities(ROWS)
        assert issuer.issued == 3
    (tmp_path / "account.json").write_text("{}")
    with pytest.raises(TargetError, match="service account's JSON file in ACCOUNT"):
        connect("https://host.example/m", google={"service_account_env": "ACCOUNT"}, **FORMAT)


def test_aws_signatures_are_those_that_aws_would_compute(monkeypatch, connect):
    pytest.importorskip("botocore")
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    class AtThatTime(SigV4Auth):
        def __init__(self, *args, date):
            super().__init__(*args)
            self.date = date

        def signature_of(self, asked, url):
            request = AWSRequest(method=asked.method, url=url, data=asked.body)
            request.headers["Content-Type"] = asked.headers["content-type"]
            request.headers["Host"] = asked.headers["host"]
            request.headers["X-Amz-Date"] = request.context["timestamp"] = self.date
            request.headers["X-Amz-Security-Token"] = "session-token"
            canonical = self.canonical_request(request)
            return self.signature(self.string_to_sign(request, canonical), request)

    def signed(asked):
        signer = AtThatTime(Credentials("AKIDEXAMPLE", SECRET, "session-token"), "sagemaker", "eu-central-1",
                            date=asked.headers["x-amz-date"])  # fmt: skip
        url = f"http://{asked.headers['host']}{asked.path}"
        assert asked.headers["authorization"].endswith(f"Signature={signer.signature_of(asked, url)}")
        return answer(asked)

    with vendors.serving({"m": signed}) as server:
        said = {"service": "sagemaker", "region": "eu-central-1"}
        got = connect(f"{server.url}/m", aws=said, **FORMAT).probabilities(ROWS)
        assert not server.errors
        assert np.allclose(got, vendors.table(ROWS))


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ({"oauth": {"token_url": "https://host.example/t"}}, "authlib"),
        ({"google": {}}, "google-auth"),
        ({"aws": {"service": "s", "region": "r"}}, "botocore"),
    ],
)
def test_what_is_not_installed_is_named(setting, package, monkeypatch, connect):
    for name in ("authlib.integrations.httpx_client", "google.oauth2.service_account", "botocore.auth"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=f"'{package}'"):
        connect("https://host.example/m", **setting, **FORMAT)


def certificate(folder, name):
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def test_client_certificates(tmp_path, connect):
    pytest.importorskip("cryptography")
    server_cert, server_key = certificate(tmp_path, "server")
    client_cert, client_key = certificate(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_cert, server_key)
    context.load_verify_locations(client_cert)
    context.verify_mode = ssl.CERT_REQUIRED
    with vendors.serving({"m": answer}, lambda socket: context.wrap_socket(socket, server_side=True)) as server:
        url = server.url.replace("http://", "https://") + "/m"
        known = connect(url, ca_file=server_cert, client_cert=client_cert, client_key=client_key, **FORMAT)
        assert np.allclose(known.probabilities(ROWS), vendors.table(ROWS))
        with pytest.raises((TargetError, ModelFailure)):
            connect(url, ca_file=server_cert, attempts=1, **FORMAT).probabilities(ROWS[:1])
    with pytest.raises(TargetError, match="client_cert"):
        connect(url, client_cert=client_key, **FORMAT)
    with pytest.raises(TargetError, match="needs client_cert"):
        connect(url, client_key=client_key, **FORMAT)


def test_one_signature_a_request():
    said = {"bearer_env": "X", "oauth": {"token_url": "https://host.example/t"}}
    with pytest.raises(TargetError, match="both sign"):
        fimaudit.audit("https://host.example/m", ROWS, **said, **FORMAT)
