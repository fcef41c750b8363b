"""`python -m zhllama_jax` is the program `zhllama`."""

from zhllama_jax.cli import program

if __name__ == "__main__":
    program.main()
