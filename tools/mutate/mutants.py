"""The mutants of a module: all small changes that make a different program.

Docstrings, log calls, arguments of exceptions, annotations and f-strings are not mutated, because
tests should not depend on text for people.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module: bytes [start, end) of its source become *replacement*."""

    path: str
    scope: str
    """Qualified name of the function or class around it; empty at the top of the module."""
    line: int
    text: str
    """The first changed line without indentation, which identifies it when the code moves."""
    operator: str
    start: int
    end: int
    replacement: str
    at_import: bool
    """The line runs when the module is imported, so the map of tests has no entry."""
    twin: int = 0
    """Its number among mutants that are equal in all members of the key."""

    @property
    def key(self) -> str:
        """An identifier that does not depend on other parts of the module."""
        parts = (self.path, self.scope, self.operator, self.text, self.replacement, str(self.twin))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    @property
    def package(self) -> str:
        """The package of the module, for the table of results."""
        parts = self.path.split("/")
        return "/".join(parts[1:3]) if parts[1] == "source" else parts[1]

    def apply(self, source: bytes) -> bytes:
        """Return the *source* of the module with this change."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]


_COMPARE: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"),
    ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_LOGGERS: Final = ("log", "logging", "warnings")
"""Objects whose methods only write messages."""


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """Return all mutants of the module *path* in the order of the source; each one compiles."""
    finder = _MutantFinder(path, source)
    finder.visit(ast.parse(source))
    counts: defaultdict[str, int] = defaultdict(int)
    mutants = []
    for mutant in sorted(finder.mutants, key=lambda m: (m.start, m.end, m.replacement)):
        number = counts[mutant.key]
        counts[mutant.key] += 1
        numbered = replace(mutant, twin=number)
        if _compiles(numbered.apply(source)):
            mutants.append(numbered)
    return mutants


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


class _MutantFinder(ast.NodeVisitor):
    """Collects mutants, except in text and annotations."""

    def __init__(self, path: str, source: bytes) -> None:
        self.mutants: list[Mutant] = []
        self._path = path
        self._source = source
        self._lines = source.splitlines(keepends=True)
        starts = [0]
        for line in self._lines:
            starts.append(starts[-1] + len(line))
        self._starts = starts
        self._scope: list[str] = []
        self._returns: list[ast.expr | None] = []

    # -- positions

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _code(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _add(self, operator: str, node: ast.expr | ast.stmt, replacement: str) -> None:
        self._add_at(operator, node.lineno, *self._span(node), replacement)

    def _add_at(self, operator: str, line: int, start: int, end: int, replacement: str) -> None:
        text = self._lines[line - 1].decode().strip()
        scope = ".".join(self._scope)
        self.mutants.append(
            Mutant(
                self._path, scope, line, text, operator, start, end, replacement, not self._returns
            )
        )

    def _between(self, left: ast.expr, right: ast.expr, old: str) -> tuple[int, int] | None:
        """Return start and end of the operator *old* between two operands; None if ambiguous."""
        start, end = self._span(left)[1], self._span(right)[0]
        between = self._source[start:end]
        sign = old.encode()
        if between.count(sign) != 1 or b"#" in between:
            return None
        at = start + between.index(sign)
        return at, at + len(sign)

    # -- exclusions

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip text for people."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip assertions, which are for the type checker."""

    def visit_arguments(self, node: ast.arguments) -> None:
        """Visit defaults, but not annotations."""
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    # -- scopes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
        if "Protocol" in bases:
            return
        self._scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        if node.name in ("__repr__", "__str__"):
            return
        self._scope.append(node.name)
        self._returns.append(node.returns)
        for statement in node.body:
            self.visit(statement)
        self._returns.pop()
        self._scope.pop()

    # -- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and _is_log_call(value)):
            return
        if isinstance(value, ast.Call):
            self._add("remove statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add("remove statement", node, "pass")
        pair = _ARITHMETIC.get(type(node.op))
        where = pair and self._between(node.target, node.value, f"{pair[0]}=")
        if pair and where:
            self._add_at("arithmetic", node.lineno, *where, f"{pair[1]}=")
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add("remove statement", node, "pass")
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add("remove statement", node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add("remove raise", node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("loop", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add("loop", node, "continue")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._add("remove statement", node, "pass")
            return
        returns = self._returns[-1] if self._returns else None
        is_bool = isinstance(returns, ast.Name) and returns.id == "bool"
        if is_bool and not isinstance(node.value, ast.Constant | ast.Compare):
            self._add("return value", node.value, f"not ({self._code(node.value)})")
        elif not isinstance(node.value, ast.Constant | ast.JoinedStr) and not is_bool:
            self._add("return value", node.value, "None")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add("condition", test, "True")
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Constant):
            self._add("condition", test, "True")
            self._add("condition", test, "False")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        first, last = node.body[0], node.body[-1]
        start, end = self._span(first)[0], self._span(last)[1]
        line = node.lineno
        is_raise = len(node.body) == 1 and isinstance(first, ast.Raise)
        is_pass = len(node.body) == 1 and isinstance(first, ast.Pass)
        if not is_pass and not is_raise:
            self._add_at("swallow exception", line, start, end, "pass")
        if not is_raise:
            self._add_at("let exception through", line, start, end, "raise")
        for statement in node.body:
            self.visit(statement)

    # -- expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for number, sign in enumerate(node.ops):
            old, new = _COMPARE[type(sign)]
            where = self._between(operands[number], operands[number + 1], old)
            if where is not None:
                for replacement in new:
                    self._add_at("comparison", operands[number].lineno, *where, replacement)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        pair = _ARITHMETIC.get(type(node.op))
        if pair is not None and not _is_text(node.left) and not _is_text(node.right):
            where = self._between(node.left, node.right, pair[0])
            if where is not None:
                self._add_at("arithmetic", node.lineno, *where, pair[1])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            where = self._between(left, right, old)
            if where is not None:
                self._add_at("boolean", left.lineno, *where, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add("boolean", node, f"({self._code(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, str(not value))
        elif isinstance(value, int):
            self._add("constant", node, str(value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if _is_log_call(node):
            return
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            self._add("call", node.func, _CALLS[node.func.id])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if not isinstance(node.value, ast.Name) or node.value.id[:1].islower():
            self.visit(node.slice)


def _is_log_call(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in _LOGGERS
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def scopes_by_line(source: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield number, scope and text without indentation of each line of a module."""
    lines = source.decode().splitlines()
    names = [""] * (len(lines) + 1)

    def mark(node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{scope}.{child.name}" if scope else child.name
                assert child.end_lineno is not None
                for line in range(child.lineno, child.end_lineno + 1):
                    names[line] = inner
            mark(child, inner)

    mark(ast.parse(source), "")
    for number, text in enumerate(lines, 1):
        yield number, names[number], text.strip()
