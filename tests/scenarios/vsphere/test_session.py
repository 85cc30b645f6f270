"""The session: kept alive, renewed once for all threads; its secrets are not shown."""

import pickle
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cbtfs.errors import AccessDenied, SourceUnavailable, UsageError
from cbtfs.source.secret import Secret, load_secret
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.faults import ReplyLost
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import verifying
from tests.scenarios.vsphere.site import QUICK, Lab, one_vm
from tools.vsim import Inventory, ServerEntry, Simulator
from tools.vsim.soap.certificate import Certificate


@pytest.fixture
def session(lab: Lab) -> Iterator[Session]:
    with lab.session() as opened:
        lab.sim.do.calls(clear=True)
        yield opened


def clock(session: Session) -> object:
    return session.repeat(session._instance.CurrentTime, "read the server's clock")


def test_an_idle_session_is_kept_alive(lab: Lab) -> None:
    lab.retry_policy = replace(QUICK, login=0.01)
    with lab.session():
        lab.sim.do.calls(clear=True)
        lab.sim.do.wait_call("CurrentTime")
        lab.sim.do.advance(3600)
        lab.sim.do.wait_call("Login")


def test_many_threads_renew_a_session_once(lab: Lab, session: Session) -> None:
    lab.sim.do.end_sessions()
    with ThreadPoolExecutor(8) as pool:
        times = list(pool.map(lambda _: clock(session), range(24)))

    assert all(times)
    assert lab.sim.do.calls().count("Login") == 1


def test_an_unrepeatable_call_is_not_repeated(lab: Lab, session: Session) -> None:
    lab.sim.do.on_call("CurrentTime", action="lost-reply")

    with pytest.raises(ReplyLost, match="ask once"):
        session.once(session._instance.CurrentTime, "ask once")
    assert lab.sim.do.calls().count("CurrentTime") == 1


def test_a_call_refused_for_lack_of_a_login_is_repeated(lab: Lab, session: Session) -> None:
    lab.sim.do.end_sessions()

    assert session.once(session._instance.CurrentTime, "ask once")


def test_an_unreachable_server_is_given_up(lab: Lab, session: Session) -> None:
    lab.sim.do.on_call("CurrentTime", action="lost-request", times=100)

    with pytest.raises(SourceUnavailable, match="cannot reach"):
        clock(session)
    assert lab.sim.do.calls().count("CurrentTime") == 1 + len(QUICK.connection)


def test_a_refused_password_is_not_tried_again(lab: Lab, session: Session) -> None:
    lab.sim.do.on_call("Login", fault="vim.fault.InvalidLogin", times=100)
    lab.sim.do.end_sessions()
    for _ in range(3):
        with pytest.raises(AccessDenied, match="rejects the user"):
            clock(session)

    assert lab.sim.do.calls().count("Login") == 1


def test_a_logout_ends_the_session_on_the_server(lab: Lab) -> None:
    with lab.session():
        pass

    assert lab.sim.do.calls()[-1] == "Logout"
    assert list(lab.sim.site.sessions) == []
    assert threading.active_count() < 50


def test_a_server_without_vsphere_is_reported_as_such(certificate: Certificate) -> None:
    with Simulator(one_vm(), certificate=certificate) as sim:
        sim.do.on_call("vimServiceVersions", action="garbage")
        with pytest.raises(SourceUnavailable, match="is not a vSphere server"):
            open_session(sim)
        sim.do.on_call("vimServiceVersions", action="status", status=404)
        with pytest.raises(SourceUnavailable, match="answers 404"):
            open_session(sim)


def test_an_api_that_is_too_old_is_refused(certificate: Certificate) -> None:
    inventory = Inventory(server=ServerEntry(api="6.0"))
    with (
        Simulator(inventory, certificate=certificate) as sim,
        pytest.raises(SourceUnavailable, match=r"vSphere API 6\.5 or later"),
    ):
        open_session(sim)


def open_session(sim: Simulator) -> None:
    tls = verifying(sim.certificate.certificate)
    credentials = Credentials(sim.user.name, Secret(sim.user.password))
    Session(Address(sim.host, sim.port), tls, credentials, QUICK).close()


# secrets


def test_a_secret_does_not_show() -> None:
    secret = Secret("hunter2")
    try:
        raise RuntimeError(f"{secret} {secret!r}")
    except RuntimeError as exc:
        text = "".join(traceback.format_exception(exc))

    assert "hunter2" not in text
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_a_refused_login_does_not_show_the_password(lab: Lab) -> None:
    tls = verifying(lab.sim.certificate.certificate)
    credentials = Credentials(lab.sim.user.name, Secret("hunter2"))
    with pytest.raises(AccessDenied) as refused:
        Session(Address(lab.sim.host, lab.sim.port), tls, credentials, QUICK)
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=False)

    assert "hunter2" not in "".join(shown.format())


def test_the_first_line_of_a_file_is_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("s3cret with spaces \r\nand a second line\n")

    assert load_secret(file).reveal() == "s3cret with spaces "


@pytest.mark.parametrize(
    ("content", "mode"), [(b"", 0o600), (b"\n", 0o600), (b"\xff\n", 0o600), (b"x\n", 0o644)]
)
def test_an_invalid_password_file(tmp_path: Path, content: bytes, mode: int) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(mode)

    with pytest.raises(UsageError, match="password file"):
        load_secret(file)


def test_a_missing_password_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the password file"):
        load_secret(tmp_path / "none")
