"""Side-by-side measurements. This package imports neither this library nor torch: its worker processes do."""
