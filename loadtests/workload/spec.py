"""The description from which a workload is drawn. TOML tables are read into these records by their names."""

from dataclasses import dataclass, field
from pathlib import Path

from server.engine.config import COUNT, COUNT_OR_AUTO, check_options, option

ABOVE_ZERO = (1e-9, float("inf"))
SHARE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    kind: str = option(
        "poisson",
        "poisson; gamma with a coefficient of variation; bursts; or replay of a trace's timestamps",
        choices=("poisson", "gamma", "bursts", "trace"),
    )
    rate: float = option(10.0, "requests a second, on average", bounds=ABOVE_ZERO)
    duration: float = option(60.0, "seconds in which requests are due", bounds=ABOVE_ZERO)
    cv: float = option(1.0, "gamma: spread of the gaps over their mean; 1 is poisson", bounds=ABOVE_ZERO)
    burst: int = option(16, "bursts: requests that come at once", bounds=COUNT)
    file: str = option("", "trace: JSON lines with `at` in seconds, and any of tenant, adapter and lengths")

    def __post_init__(self) -> None:
        check_options(self)
        if (self.kind == "trace") != bool(self.file):
            raise ValueError("arrivals: a `file` is what kind `trace` needs, and no other has")


@dataclass(frozen=True, kw_only=True)
class Popularity:
    kind: str = option(
        "zipf",
        "uniform; zipf: the n-th adapter 1 / n^alpha as often as the first; power: S-LoRA's; one: the first"
        " alone; churn: zipf over the newest, with uploads",
        choices=("uniform", "zipf", "power", "one", "churn"),
    )
    adapters: int = option(8, "adapters of each tenant; 0: the base alone", bounds=COUNT_OR_AUTO)
    alpha: float = option(1.0, "zipf, power and churn: the exponent", bounds=ABOVE_ZERO)
    base_share: float = option(0.0, "part of the requests that go to the base", bounds=SHARE)
    upload_rate: float = option(1.0, "churn: new adapters a second", bounds=ABOVE_ZERO)
    alias: str = option("", "requests ask for the adapters' alias of this name instead of the newest version")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of prompts or answers."""

    kind: str = option(
        "fixed",
        "fixed; uniform in [low, high); lognormal by median and sigma, cut to [low, high]; or a file's",
        choices=("fixed", "uniform", "lognormal", "file"),
    )
    tokens: int = option(64, "fixed: so many; lognormal: the median", bounds=COUNT)
    low: int = option(1, "least", bounds=COUNT)
    high: int = option(4096, "most", bounds=COUNT)
    sigma: float = option(1.0, "lognormal: spread of the logarithm", bounds=ABOVE_ZERO)
    file: str = option("", "file: one whole number a line, drawn from at random")

    def __post_init__(self) -> None:
        check_options(self)
        if self.low > self.high or (self.kind == "uniform" and self.low == self.high):
            raise ValueError(f"lengths: low {self.low} must be less than high {self.high}")
        if self.kind == "file" and not Path(self.file).is_file():
            raise ValueError(f"lengths: there is no file {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class Prompts(Lengths):
    shared: int = option(0, "first tokens that all prompts of one adapter share", bounds=COUNT_OR_AUTO)


@dataclass(frozen=True, kw_only=True)
class Answers(Lengths):
    pass


@dataclass(frozen=True, kw_only=True)
class Tenant:
    name: str = option("default", "as the report calls it")
    share: float = option(1.0, "of the requests, beside the other tenants' shares", bounds=ABOVE_ZERO)
    weight: float = option(
        1.0, "what the server owes it, beside the other tenants' weights", bounds=ABOVE_ZERO
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that decides a workload, but for the seed."""

    name: str = "custom"
    arrivals: Arrivals = field(default_factory=Arrivals)
    popularity: Popularity = field(default_factory=Popularity)
    prompts: Prompts = field(default_factory=Prompts)
    answers: Answers = field(default_factory=Answers)
    tenants: tuple[Tenant, ...] = (Tenant(),)
    sessions: int = option(
        0, "sessions of each tenant, drawn alike for its requests; 0: each is its own", bounds=COUNT_OR_AUTO
    )

    def __post_init__(self) -> None:
        check_options(self)
        names = [tenant.name for tenant in self.tenants]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"tenants must be there, each under a name of its own, not {names}")
