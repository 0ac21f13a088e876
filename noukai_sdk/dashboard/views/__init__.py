"""From models to what templates show: plain functions and dataclasses without I/O."""
