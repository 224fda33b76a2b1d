"""Evaluation mode without modifying the model, which other threads may use or train."""

from functools import partial
from types import MethodType
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def in_evaluation(model: Module) -> Module:
    """The model itself if all of it is in evaluation mode, else a view of it in evaluation mode.

    A view has its own modules but shares parameters, buffers and hooks with the model, so it always sees the current
    weights. `model.training` is never set.
    """
    if not any(part.training for part in model.modules()):
        return model
    return _view(model, {})


def _view(module: Module, made: dict[int, Any]) -> Module:
    if id(module) in made:
        return made[id(module)]
    view = made[id(module)] = object.__new__(type(module))
    view.__dict__.update({name: _rebound(value, module, view) for name, value in module.__dict__.items()})
    view.__dict__["training"] = False
    view.__dict__["_modules"] = {
        name: None if part is None else _view(part, made) for name, part in module._modules.items()
    }
    return view


def _rebound(value: Any, module: nn.Module, view: nn.Module) -> Any:
    """Rebind a method set on the instance (such as the `forward` of offloading) to the view."""
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, view)
    if isinstance(value, partial) and value.args[:1] == (module,):
        return partial(value.func, view, *value.args[1:], **value.keywords)
    return value
