"""A tenant's share of the store."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.errors import StoreQuotaExceeded


@dataclass(frozen=True)
class Quota:
    """Limits of one tenant, of live versions and of pinned ones; 0 is none."""

    max_adapters: int = 0
    max_bytes: int = 0
    max_pins: int = 0

    def check_upload(self, num_adapters: int, num_bytes: int) -> None:
        """Raises StoreQuotaExceeded if a tenant may not have so many versions of so many bytes."""
        if self.max_adapters and num_adapters > self.max_adapters:
            raise StoreQuotaExceeded(
                "max_adapters",
                f"The tenant may keep {self.max_adapters} versions, those being uploaded included; "
                "delete some first.",
            )
        if self.max_bytes and num_bytes > self.max_bytes:
            raise StoreQuotaExceeded(
                "max_adapter_store_bytes",
                f"The tenant may keep {self.max_bytes} bytes of adapters, those being uploaded included, and "
                f"this would make {num_bytes}; delete some first.",
            )

    def check_pins(self, num_pins: int) -> None:
        """Raises StoreQuotaExceeded if a tenant may not pin so many versions."""
        if self.max_pins and num_pins > self.max_pins:
            raise StoreQuotaExceeded(
                "max_pinned_adapters", f"The tenant may pin {self.max_pins} versions; unpin one first."
            )
