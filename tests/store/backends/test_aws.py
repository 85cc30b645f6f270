"""Endpoint, region and credentials are found where AWS's tools find them."""

from pathlib import Path

import pytest

from cbtfs.errors import UsageError
from cbtfs.store.backend.aws import Credentials, S3Access, s3_access

CONFIG = """\
[default]
region = eu-central-1
[profile ceph]
region = here
endpoint_url = https://ceph.example
[profile split]
services = local
ca_bundle = /etc/ca.pem
[services local]
s3 =
  addressing_style = path
  endpoint_url = https://s3.example
dynamodb =
  endpoint_url = https://other.example
[profile indirect]
role_arn = arn:aws:iam::1:role/backup
"""
SECRETS = """\
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = s3cret
[ceph]
aws_access_key_id = AKCEPH
aws_secret_access_key = c3ph
aws_session_token = token
"""


LOGIN = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s3cret"}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "config").write_text(CONFIG)
    (folder / "credentials").write_text(SECRETS)
    return {"HOME": str(tmp_path)}


def test_the_default_profile(home: dict[str, str]) -> None:
    assert s3_access(home) == S3Access(None, "eu-central-1", Credentials("AKDEFAULT", "s3cret"))


def test_a_named_profile(home: dict[str, str]) -> None:
    found = s3_access({**home, "AWS_PROFILE": "ceph"})

    login = Credentials("AKCEPH", "c3ph", "token")
    assert found == S3Access("https://ceph.example", "here", login)


def test_the_endpoint_of_a_service(home: dict[str, str]) -> None:
    found = s3_access({**home, "AWS_PROFILE": "split"})

    assert found == S3Access("https://s3.example", "us-east-1", None, Path("/etc/ca.pem"))


def test_the_environment_has_precedence(home: dict[str, str]) -> None:
    variables = {
        "AWS_ENDPOINT_URL": "http://[::1]:8333",
        "AWS_DEFAULT_REGION": "r",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }
    expected = S3Access("http://[::1]:8333", "r", Credentials("id", "key"))
    assert s3_access({**home, **variables}) == expected

    variables |= {"AWS_ENDPOINT_URL_S3": "http://two", "AWS_REGION": "q"}
    found = s3_access({**home, **variables})
    assert (found.endpoint, found.region) == ("http://two", "q")


@pytest.mark.parametrize("text", ["s3.example", "http://", "ftp://x", "http://user:key@x"])
def test_an_invalid_endpoint_is_refused(home: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match="invalid endpoint"):
        s3_access({**home, "AWS_ENDPOINT_URL": text})


def test_nothing_is_configured(tmp_path: Path) -> None:
    assert s3_access({"HOME": str(tmp_path)}) == S3Access()


@pytest.mark.parametrize(
    ("profile", "message"),
    [("absent", "no AWS profile 'absent'"), ("indirect", "uses role_arn, which cbtfs does not")],
)
def test_a_profile_that_cannot_be_used(home: dict[str, str], profile: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        s3_access({**home, "AWS_PROFILE": profile})


def test_a_damaged_file_is_not_quoted(home: dict[str, str]) -> None:
    file = Path(home["HOME"], ".aws", "credentials")
    file.write_text("aws_secret_access_key = s3cret\n")

    with pytest.raises(UsageError, match=r"cannot read .*credentials") as refused:
        s3_access(home)
    assert "s3cret" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(S3Access(credentials=Credentials("id", "s3cret", "s3cret")))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("AWS_ENDPOINT_URL", "https://user:s3cret@s3.example", "invalid endpoint: use e.g."),
        ("AWS_ENDPOINT_URL", "s3.example", "invalid endpoint 's3.example'"),
        ("AWS_REGION", "here\n", "invalid region"),
        ("AWS_ACCESS_KEY_ID", "AK\n", "a character that no key has"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret\r", "a character that no key has"),
        ("AWS_SESSION_TOKEN", "s3cret\0", "a character that no key has"),
    ],
)
def test_values_that_cannot_be_sent_are_refused(name: str, value: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        s3_access({**LOGIN, name: value})

    assert "s3cret" not in str(refused.value)
