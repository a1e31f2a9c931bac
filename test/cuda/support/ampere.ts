// Imported before ./device: the stand-in is of capability 8.0, which only the mma.sync kernels run on.
process.env.NODE_ATTENTION_STANDIN_CAPABILITY = '8.0';
