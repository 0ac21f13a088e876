"""The wire contract, read by strict clients that share no code with ours."""
