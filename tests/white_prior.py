"""A prior of white noise, of any size, for tests in several places."""


class WhitePrior:
    """Images of independent Gaussian pixels of variance v: the exact denoiser is v u / (v + sigma^2)."""

    variance = 0.01
    sha256 = None

    def __init__(self, size=128):
        self.shape = (3, size, size)

    def __repr__(self):
        return "WhitePrior()"  # the same in every process, as names of tests have to be

    def __call__(self, u, sigma):
        return self.variance * u / (self.variance + sigma**2)
