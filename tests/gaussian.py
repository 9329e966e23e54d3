"""The closed forms of Gaussian data: what a perfect network would predict. x0 ~ N(mean, deviation^2), entry by entry.

x_sigma ~ N((1 - sigma) mean, V), V = (1 - sigma)^2 deviation^2 + sigma^2; along the exact probability-flow ODE the
standardised value z = (x_sigma - (1 - sigma) mean) / sqrt(V) never changes.
"""

from dataclasses import dataclass

from torch import Tensor

from mutoscope.noise.schedule import broadcast_sigma


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, deviation^2)."""

    mean: float
    deviation: float

    def standardised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """z, which tells the trajectory through (x, sigma)."""
        level = broadcast_sigma(sigma, x)
        variance = (1 - level) ** 2 * self.deviation**2 + level**2
        return (x - (1 - level) * self.mean) / variance.sqrt()

    def on_trajectory(self, z: Tensor, sigma: Tensor) -> Tensor:
        """x of the trajectory z at sigma."""
        level = broadcast_sigma(sigma, z)
        return (1 - level) * self.mean + ((1 - level) ** 2 * self.deviation**2 + level**2).sqrt() * z

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[noise - x0 | x_sigma = x], the minimum of the flow loss."""
        level = broadcast_sigma(sigma, x)
        variance = (1 - level) ** 2 * self.deviation**2 + level**2
        offset = (x - (1 - level) * self.mean) / variance
        return level * offset - (self.mean + (1 - level) * self.deviation**2 * offset)

    def end_point(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Where the trajectory through (x, sigma) ends at sigma 0: the exact consistency function."""
        return self.mean + self.deviation * self.standardised(x, sigma)

    def consistency_velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The velocity whose x - sigma v is the exact consistency function; sigma > 0."""
        return (x - self.end_point(x, sigma)) / broadcast_sigma(sigma, x)
