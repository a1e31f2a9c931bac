// Imported before ./device: the stand-in has two devices.
process.env.NODE_ATTENTION_STANDIN_DEVICES = '2';
