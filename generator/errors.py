"""What the generator refuses, by name. Every message is one line: what was found, what is allowed, what to do."""


class GeneratorError(Exception):
    """Base of all errors raised on purpose by this package."""


class SpecError(GeneratorError, ValueError):
    """The mapping given as a spec does not describe a data distribution."""


class WeightsError(GeneratorError, ValueError):
    """A file of weights that a spec names is absent, or is not what it names."""


class TomlError(GeneratorError):
    """A file of settings cannot be read, or is not TOML that could be settings."""


class BandError(GeneratorError):
    """The spec's rules (nearly) never score inside its band."""


class BackendError(GeneratorError, ValueError):
    """The backend asked for is unknown, not installed, or has no device."""


class RangeError(GeneratorError, ValueError):
    """A seed, sequence id, count or token lies outside what is defined."""
