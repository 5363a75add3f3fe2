"""How nets are made smaller: each file a technique, each technique a function from a net to a new one."""
