"""How many tokens go through the model at once: less after running out of memory, more again when it goes well."""
