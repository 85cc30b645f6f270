"""Machine code of a guest that answers on its serial port, writes to its disk and powers off."""

from typing import Final

_ORIGIN: Final = 0x7C00
GREETING: Final = b"BOOTED FROM A POINT\r\n"
WRITTEN: Final = b"WRITTEN\r\n"


def boot_sector() -> bytes:
    """Return a boot sector of 512 bytes.

    The guest waits for a byte on the serial port, prints GREETING, copies itself to the second
    sector of its disk, prints WRITTEN if that succeeds, and powers off.
    """
    start = bytes.fromhex(
        "31c08ed88ec08ed0bc007c"  # xor ax, ax; mov ds, es and ss, ax; mov sp, 0x7c00
        "bafd03eca80174fb"  # wait: mov dx, 0x3fd; in al, dx; test al, 1; jz wait
        "baf803ec"  # mov dx, 0x3f8; in al, dx
    )
    write = bytes.fromhex(
        "b80103b90200"  # mov ax, 0x0301: write one sector; mov cx, 2: the second one
        "ba8000bb007ccd13"  # mov dx, 0x80: the first disk; mov bx, 0x7c00; int 0x13
        "7206"  # jc off
    )
    off = bytes.fromhex("ba0406b80020eff4ebfd")  # out 0x604, 0x2000: ACPI power off; hlt
    show = bytes.fromhex(
        "ac84c07412"  # print: lodsb; test al, al; jz end
        "88c4bafd03eca82074fb"  # mov ah, al; wait until the line is free
        "baf80388e0eeebe9c3"  # out 0x3f8, al; jmp print; end: ret
    )
    call = 6
    length = len(start) + call + len(write) + call + len(off)
    texts = _ORIGIN + length + len(show)
    code = start
    code += _print(code, texts, length) + write
    code += _print(code, texts + len(GREETING) + 1, length) + off + show
    code += GREETING + b"\0" + WRITTEN + b"\0"
    return code.ljust(510, b"\0") + b"\x55\xaa"


def _print(before: bytes, text: int, function: int) -> bytes:
    """Return the call of the *function* at that offset with the address *text*, after *before*."""
    after = len(before) + 6
    move = b"\xbe" + text.to_bytes(2, "little")
    return move + b"\xe8" + (function - after).to_bytes(2, "little", signed=True)
