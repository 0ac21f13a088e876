"""The paths of the contract. Thin: read the call, hand it to what knows, answer."""
