"""Parser of SOAP requests: method, target and arguments.

pyVmomi's deserialiser reads the values, one element at a time: xsi:type contains qualified names,
and only a parser that reports namespaces can resolve their prefixes.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from xml.parsers import expat

from pyVmomi import SoapAdapter

from tools.vsim.fault import Fault
from tools.vsim.soap.nfc import METHODS, NAMESPACES, TextValue
from tools.vsim.soap.vmodl import kind_named, method_named

SEPARATOR: str = SoapAdapter.NS_SEP
BODY = f"{SoapAdapter.XMLNS_SOAPENV}{SEPARATOR}Body"


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request."""

    method: str  # WSDL name
    kind: str  # the target's type, such as vim.VirtualMachine
    moid: str
    arguments: dict[str, Any]
    namespace: str = NAMESPACES[0]


def parse_request(body: bytes) -> Request:
    """Return the request in *body*; raises InvalidRequest if it cannot be parsed."""
    reader = _RequestParser()
    try:
        reader.parser.Parse(body, True)
    except (expat.ExpatError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    if reader.method is None or reader.target is None:
        raise _invalid("no method or no _this")
    arguments = {
        name: _gathered(reader.parameters[name], values) for name, values in reader.values.items()
    }
    return Request(reader.method, *reader.target, arguments, reader.namespace)


def _invalid(reason: str) -> Fault:
    return Fault("vmodl.fault.InvalidRequest", f"Unable to parse the request: {reason}")


def _gathered(declared: Any, values: list[Any]) -> Any:
    return declared(values) if issubclass(declared, list) else values[-1]


class _RequestParser(SoapAdapter.ExpatDeserializerNSHandlers):  # type: ignore[misc]
    """Expat handlers that track the depth below Body and pass parameters to the deserialiser."""

    def __init__(self) -> None:
        super().__init__()
        self.parser = expat.ParserCreate(namespace_separator=SEPARATOR)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartNamespaceDeclHandler = self.StartNamespaceDeclHandler
        self.parser.EndNamespaceDeclHandler = self.EndNamespaceDeclHandler
        self.method: str | None = None
        self.namespace = NAMESPACES[0]
        self.target: tuple[str, str] | None = None
        self.parameters: dict[str, Any] = {}
        self.values: dict[str, list[Any]] = {}
        self._depth = -1  # 0 is Body, 1 the method, 2 its parameters
        self._name = ""
        self._kind = ""
        self._characters = ""
        self._value: Any = None

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._depth < 0:
            self._depth = 0 if tag == BODY else -1
            return
        self._depth += 1
        self._characters = ""
        if self._depth == 1:
            namespace, _, name = tag.rpartition(SEPARATOR)
            if namespace in NAMESPACES:
                self.namespace = namespace
            self._begin_method(name)
        elif self._depth == 2:
            self._begin_parameter(tag.rpartition(SEPARATOR)[2], attributes)
        if self._depth >= 2 and self._value:
            self._value.StartElementHandler(tag, attributes)

    def _end(self, tag: str) -> None:
        if self._depth < 0:
            return
        if self._depth == 2 and self._value is None and self._name == "_this":
            self.target = (self._kind, self._characters.strip())
        if self._value:
            self._value.EndElementHandler(tag)
            if self._depth == 2:
                self.values.setdefault(self._name, []).append(self._value.GetResult())
                self._value = None
        self._depth -= 1

    def _text(self, data: str) -> None:
        self._characters += data
        if self._value:
            self._value.CharacterDataHandler(data)

    def _begin_method(self, name: str) -> None:
        self.method = name
        if name == "Fetch":  # not in the WSDL: reads one property by attribute access
            self.parameters = {"prop": str}
        else:
            self.parameters = {param.name: param.type for param in method_named(name).info.params}

    def _begin_parameter(self, name: str, attributes: dict[str, str]) -> None:
        self._name = name
        if name == "_this":
            self._kind = kind_named(attributes["type"])
            return
        declared = self.parameters[name]
        if self.method in METHODS:
            self._value = TextValue(declared)
            return
        item = declared.Item if issubclass(declared, list) else declared
        self._value = SoapAdapter.SoapDeserializer()
        self._value.Deserialize(_no_parser(), item, nsMap=self.nsMap)


def _no_parser() -> Any:
    """Return a dummy parser: the deserialiser replaces its handlers, and not the real ones."""
    return SimpleNamespace(
        StartElementHandler=None,
        EndElementHandler=None,
        CharacterDataHandler=None,
        StartNamespaceDeclHandler=None,
        EndNamespaceDeclHandler=None,
    )
