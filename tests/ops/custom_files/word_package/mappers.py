"""A mapper that takes its words from a neighbour."""

from data_juicer.ops.base_op import OPERATORS, Mapper

from .words import GREETING


@OPERATORS.register_module("greeting_mapper")
class GreetingMapper(Mapper):
    """Greet."""

    def process_single(self, sample):
        return dict(sample, text=f"{GREETING}, {sample[self.text_key]}")
