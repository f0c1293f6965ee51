"""The filter language of the REST operations: text in, a test of one connection out.

A filter is compiled before anything else of a request is done, so that a wrong one changes nothing; this is
no query over stored data and knows nothing of where connections are. Whoever has a filter text and
something with the attributes of a `Subject` may call it.
"""

from hubs.rules.filters.errors import InvalidFilter
from hubs.rules.filters.predicate import Predicate, Subject, compile_filter

__all__ = ["InvalidFilter", "Predicate", "Subject", "compile_filter"]
