"""What a scrape of this process would tell."""

from __future__ import annotations

from prometheus_client import REGISTRY

Series = tuple[str, tuple[tuple[str, str], ...]]


def value(name: str, **labels: str) -> float | None:
    """Of one series; None where there is none."""
    return REGISTRY.get_sample_value(name, labels)


def all_series() -> dict[Series, float]:
    """Every series of nestvec's own metrics: (name, labels by name) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("nestvec_")
        for sample in family.samples
    }
