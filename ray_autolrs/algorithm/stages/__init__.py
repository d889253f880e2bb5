"""The stage machine: phases, messages, records and the one way from state to state."""
