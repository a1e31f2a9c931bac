// Imported before ./device: the stand-in has one multiprocessor, which small problems fill without parts of their keys.
process.env.NODE_ATTENTION_STANDIN_MULTIPROCESSORS = '1';
