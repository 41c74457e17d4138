"""Encoded samples kept in memory for later epochs, up to a number of bytes. It changes nothing but time."""

from __future__ import annotations

import threading

from vamba.data.batch import EncodedSample


class SampleCache:
    """Keeps what fits, first come first kept: every sample is used once an epoch, so evicting would only churn."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._samples: dict[str, EncodedSample] = {}
        self.used_bytes = 0

    def get(self, sample_id: str) -> EncodedSample | None:
        return self._samples.get(sample_id)

    def put(self, sample: EncodedSample) -> None:
        size = num_bytes(sample)
        with self._lock:
            if sample.id not in self._samples and self.used_bytes + size <= self._limit_bytes:
                self._samples[sample.id] = sample
                self.used_bytes += size


def num_bytes(sample: EncodedSample) -> int:
    """Memory of a sample's arrays."""
    arrays = [array for text in sample.texts for array in (text.input_ids, text.labels)]
    teachers = [text.teacher for text in sample.texts if text.teacher is not None]
    arrays += [array for teacher in teachers for array in (teacher.token_ids, teacher.logits)]
    arrays += sample.frames if sample.patches is None else (sample.patches,)
    return sum(array.nbytes for array in arrays)
