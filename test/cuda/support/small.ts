// Imported before ./device: the stand-in has few multiprocessors, so that blocks get several items of work in small problems.
process.env.NODE_ATTENTION_STANDIN_MULTIPROCESSORS = '16';
