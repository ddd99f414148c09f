"""ActService: actions of a policy, and whole episodes."""
