"""Endpoint, region and credentials of an S3 server, from the places that AWS's tools use.

The precedence is that of the AWS CLI: variables of the environment, then the profile in
~/.aws/credentials and ~/.aws/config. Without credentials there, those of the machine's role are
used (instance metadata, containers, web identity).
"""

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cbtfs.errors import UsageError

_DEFAULT_REGION: Final = "us-east-1"
_INDIRECT: Final = ("role_arn", "sso_session", "sso_start_url", "credential_process")
_ENDPOINT: Final = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?\Z")
_REGION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_KEY: Final = re.compile(r"[!-~]+\Z")
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key. Its secrets are not part of its representation."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @property
    def is_printable(self) -> bool:
        """Whether all parts can be sent; obstore ends with a panic otherwise."""
        parts = self.access_key, self.secret_key, self.session_token or "-"
        return all(map(_KEY.match, parts))


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach an S3 server."""

    endpoint: str | None = None
    """URL of the server; None: AWS."""
    region: str = _DEFAULT_REGION
    credentials: Credentials | None = None
    """None: those of the machine's role."""
    ca_file: Path | None = None
    """Certificates that are trusted besides those of the system."""


def s3_access(environment: Mapping[str, str]) -> S3Access:
    """Return the access that *environment* and the files of AWS's tools describe.

    Raises:
        UsageError: a named profile does not exist, a file cannot be read, or the profile obtains
            its credentials in a way that is not supported.
    """
    files = _Files(environment)
    profile = files.profile()
    ca_file = environment.get("AWS_CA_BUNDLE") or profile.get("ca_bundle")
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or files.service_endpoint(profile)
        or profile.get("endpoint_url")
        or None
    )
    if endpoint is not None and not _ENDPOINT.match(endpoint):
        shown = "" if "@" in endpoint else f" {endpoint!r}"  # It may contain a password.
        raise UsageError(f"invalid endpoint{shown}: use e.g. https://s3.example:8333")
    region = (
        environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.get("region")
        or _DEFAULT_REGION
    )
    if not _REGION.match(region):
        raise UsageError(f"invalid region {region!r}: use e.g. {_DEFAULT_REGION}")
    credentials = _credentials(environment, profile, files.name)
    if credentials is not None and not credentials.is_printable:
        raise UsageError(
            "the access key, its secret or the session token has a character that no key has, e.g. "
            "a space or a line end"
        )
    return S3Access(
        endpoint=endpoint,
        region=region,
        credentials=credentials,
        ca_file=Path(ca_file) if ca_file else None,
    )


def _credentials(
    environment: Mapping[str, str], profile: Mapping[str, str], name: str
) -> Credentials | None:
    access, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    if environment.get(access) and environment.get(secret):
        token = environment.get("AWS_SESSION_TOKEN") or None
        return Credentials(environment[access], environment[secret], token)
    key, value = profile.get(access.lower()), profile.get(secret.lower())
    if key and value:
        return Credentials(key, value, profile.get("aws_session_token"))
    for option in _INDIRECT:
        if option in profile:
            raise UsageError(
                f"the AWS profile {name!r} uses {option}, which cbtfs does not support: set the "
                "variables that 'aws configure export-credentials --format env' prints"
            )
    return None


class _Files:
    """The files of AWS's tools."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = Path(environment.get("HOME") or "/")
        self.is_named = bool(environment.get("AWS_PROFILE"))
        self.name = environment.get("AWS_PROFILE") or "default"
        self._config_file = _file(environment, "AWS_CONFIG_FILE", home / ".aws" / "config")
        self._config = _sections(self._config_file)
        self._secrets = _sections(
            _file(environment, "AWS_SHARED_CREDENTIALS_FILE", home / ".aws" / "credentials")
        )

    def profile(self) -> Mapping[str, str]:
        """Return the options of the profile in both files; the file of credentials counts more."""
        section = self.name if self.name == "default" else f"profile {self.name}"
        found = [s[n] for s, n in ((self._config, section), (self._secrets, self.name)) if n in s]
        if self.is_named and not found:
            raise UsageError(f"there is no AWS profile {self.name!r}: check AWS_PROFILE")
        return {key: value for options in found for key, value in options.items()}

    def service_endpoint(self, profile: Mapping[str, str]) -> str | None:
        """Return the endpoint of the service s3 in the section that a profile names."""
        services = self._config.get(f"services {profile.get('services')}", {})
        for line in services.get("s3", "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "endpoint_url":
                return value.strip()
        return None


def _file(environment: Mapping[str, str], variable: str, default: Path) -> Path:
    text = environment.get(variable)
    return Path(text).expanduser() if text else default


def _sections(file: Path) -> Mapping[str, Mapping[str, str]]:
    """Return the sections of a file; none if it does not exist.

    An error names the file alone: the text of a parser's error contains the line, maybe a secret.
    """
    parser = configparser.RawConfigParser(default_section="\0", strict=False)
    try:
        with file.open(encoding="utf-8") as opened:
            parser.read_string(opened.read(_MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc
    except (ValueError, configparser.Error):
        raise UsageError(f"cannot read {file}: it is not a configuration of AWS's tools") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}
