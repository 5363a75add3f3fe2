"""Parameters and MACs: counted by several routes, beside what others published of them."""
