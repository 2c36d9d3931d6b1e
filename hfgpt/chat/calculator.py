"""The calculator that a model may call: arithmetic on text that nobody vouches for.

An expression is cut into tokens of a short list, parsed by `ast`, and walked here; nothing is executed. Time and size
are bounded by what is refused beforehand: long expressions, long numbers, and powers that would give one."""

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_CHARACTERS = 200
MAX_DIGITS = 100  # of any whole number on the way
MAX_ROUNDING = 20  # places that round() may name: whole numbers are rounded by way of 10 to that power

FUNCTIONS: dict[str, Callable] = {"abs": abs, "max": max, "min": min, "round": round}
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
TOKEN = re.compile(
    r"""[\s+\-*/%(),]        # operators, brackets, the comma between arguments
    | (\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?![\w.])
    | \b(abs|max|min|round)\b
    | ("[^"'\\\n]*"|'[^"'\\\n]*')\.count\b   # how often a text holds another one: "hello".count("l")
    | "[^"'\\\n]*" | '[^"'\\\n]*'
    """,
    re.VERBOSE | re.ASCII,
)


class CalculatorError(ValueError):
    """The expression is none, or would take too long or give too much; the message is one sentence."""


def calculate(expression: str) -> str:
    """The value of an expression of numbers, `+ - * / // % **`, brackets, abs, max, min, round and "text".count("t").

    Whole numbers are exact; others have 12 significant digits. Raises CalculatorError for everything else.
    """
    expression = expression.strip()
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"The expression has {len(expression)} characters and may have {MAX_CHARACTERS}.")
    position = 0
    while position < len(expression):
        token = TOKEN.match(expression, position)
        if token is None:
            raise CalculatorError(f"The calculator cannot read {expression[position : position + 20]!r}.")
        position = token.end()
    try:
        value = _number(ast.parse(expression.replace("\n", " "), mode="eval").body)
    except CalculatorError:
        raise
    except (SyntaxError, RecursionError, MemoryError):
        raise CalculatorError("The expression is not well formed, or nested too deep.") from None
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CalculatorError(f"The expression has no value: {error}.") from None
    if isinstance(value, float):
        return f"{value + 0.0:.12g}"  # + 0.0: no negative zero
    return str(value)


def _number(node: ast.expr) -> int | float:
    """The value of a node, checked to be a real number of bounded size."""
    match node:
        case ast.Constant(value=int() | float() as value):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_number(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _number(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_number(left), _number(right))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
            value = OPERATORS[type(sign)](_number(left), _number(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            value = _call(name, [_number(argument) for argument in arguments])
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            value = text.count(part)
        case _:
            raise CalculatorError("The expression holds something that is no arithmetic.")
    if isinstance(value, complex) or not math.isfinite(value):
        raise CalculatorError("The value is not a finite real number.")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise CalculatorError(f"A number on the way has more than {MAX_DIGITS} digits.")
    return value


def _power(base: int | float, exponent: int | float) -> int | float:
    exact = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if exact and abs(base) > 1 and exponent * math.log10(abs(base)) > MAX_DIGITS:
        raise CalculatorError(f"A power on the way has more than {MAX_DIGITS} digits.")
    return base**exponent


def _call(name: str, arguments: list[int | float]) -> int | float:
    if name == "round" and len(arguments) > 1 and abs(arguments[1]) > MAX_ROUNDING:
        raise CalculatorError(f"round() goes to {MAX_ROUNDING} places.")
    if name in ("max", "min") and not arguments:
        raise CalculatorError(f"{name}() needs a number.")
    return FUNCTIONS[name](arguments) if name in ("max", "min") else FUNCTIONS[name](*arguments)
