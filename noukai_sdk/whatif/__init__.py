"""What-if: a recorded session is replayed but for the named calls, which run live with a change."""
