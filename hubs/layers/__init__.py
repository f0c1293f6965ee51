"""Channel layers: how the processes of one service reach each other."""
