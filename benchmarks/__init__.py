"""Side-by-side measurements. Each module has ``run() -> list[Row]``; see measure.py."""
