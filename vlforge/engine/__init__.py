"""Running operators over a dataset: planned, streamed, counted, resumable.

What passes between the parts are msgspec's structs: declared in a thirtieth of a
dataclass's time and made in half of it, which counts where there is one per row.
"""
