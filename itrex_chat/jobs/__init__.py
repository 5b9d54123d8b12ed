"""Jobs: what is to be done with a model, the events by which it is told, and who does it.

`job` and `event` are the types, `protocol` their form on a line, `executor` runs jobs. A job names its work by
identifiers (questions, passages), never by an order.
"""
