"""The NFC server: authd, the classic handshake, AIO records. docs/vsim.md describes it."""
