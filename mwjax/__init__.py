"""mwjax: action-controlled interactive world models in pure-functional JAX."""

__version__ = "0.1.0"
