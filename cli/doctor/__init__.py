"""`umekomi doctor`: the command (command), what it says (finding), and a module for each thing that it looks at."""
