// Imported before ./device: the stand-in has 64 MiB of memory.
process.env.NODE_ATTENTION_STANDIN_MEMORY = String(2 ** 26);
