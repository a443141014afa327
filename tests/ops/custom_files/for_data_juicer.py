"""Operators as a user of Data-Juicer 1.x writes them; this file runs there unchanged."""

import hashlib

from data_juicer.ops.base_op import (
    OPERATORS,
    TAGGING_OPS,
    Deduplicator,
    Filter,
    Mapper,
    Selector,
)
from data_juicer.utils.constant import Fields, HashKeys, MetaKeys, StatsKeys


@OPERATORS.register_module("vowel_filter")
class VowelFilter(Filter):
    """Keep texts with a share of vowels within bounds."""

    def __init__(self, min_ratio: float = 0.2, max_ratio: float = 1.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if min_ratio > max_ratio:
            raise ValueError("min_ratio is above max_ratio")
        self.min_ratio = min_ratio
        self.max_ratio = max_ratio

    def compute_stats_single(self, sample, context=False):
        if "vowel_ratio" in sample[Fields.stats]:
            return sample
        text = sample[self.text_key]
        vowels = sum(char in "aeiou" for char in text.lower())
        sample[Fields.stats]["vowel_ratio"] = vowels / len(text)
        return sample

    def process_single(self, sample):
        return self.get_keep_boolean(
            sample[Fields.stats]["vowel_ratio"], self.min_ratio, self.max_ratio
        )


@OPERATORS.register_module("length_filter_in_columns")
class LengthFilterInColumns(Filter):
    _batched_op = True

    def __init__(self, keys=("text",), most: int = 30, **kwargs):
        super().__init__(**kwargs)
        self.keys = list(keys)
        self.most = most

    def compute_stats_batched(self, samples):
        for at, stat in enumerate(samples[Fields.stats]):
            stat[StatsKeys.text_len] = sum(len(samples[key][at]) for key in self.keys)
        return samples

    def process_batched(self, samples):
        return (stat[StatsKeys.text_len] <= self.most for stat in samples[Fields.stats])


@TAGGING_OPS.register_module("first_word_mapper")
@OPERATORS.register_module("first_word_mapper")
class FirstWordMapper(Mapper):
    """Tag a text with its first word, and end it with a mark."""

    def __init__(self, mark: str = "!", *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mark = mark

    def process_single(self, sample):
        sample[Fields.meta][MetaKeys.keyword] = sample[self.text_key].split()[0]
        sample[self.text_key] += self.mark
        return sample


@OPERATORS.register_module("halves_mapper")
class HalvesMapper(Mapper):
    """Two rows of one: the halves of its text."""

    _batched_op = True

    def process_batched(self, samples):
        out = {key: [] for key in samples}
        for at, text in enumerate(samples[self.text_key]):
            middle = len(text) // 2
            for half in (text[:middle], text[middle:]):
                for key in samples:
                    out[key].append(half if key == self.text_key else samples[key][at])
        return out


@OPERATORS.register_module("every_nth_selector")
class EveryNthSelector(Selector):
    """Every n-th row, the longest texts first."""

    def __init__(self, n: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.n = n

    def process(self, dataset):
        if len(dataset) <= 1:
            return dataset
        lengths = [len(text) for text in dataset[self.text_key]]
        order = sorted(range(len(dataset)), key=lambda at: -lengths[at])
        return dataset.select(order[:: self.n])


@OPERATORS.register_module("lower_case_deduplicator")
class LowerCaseDeduplicator(Deduplicator):
    """Rows whose texts are equal in lower case repeat each other; the first stays."""

    def compute_hash(self, sample):
        text = sample[self.text_key].strip().lower()
        sample[HashKeys.hash] = hashlib.md5(text.encode()).hexdigest()
        return sample

    def process(self, dataset, show_num=0):
        seen = set()

        def is_new(sample, known):
            found = sample[HashKeys.hash]
            if found in known:
                return False
            known.add(found)
            return True

        dataset = dataset.filter(is_new, fn_kwargs={"known": seen}, load_from_cache_file=False)
        return dataset, {}
