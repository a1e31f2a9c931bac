// A device without wgmma and bulk copies. To be imported before everything else.
process.env.NODE_ATTENTION_STANDIN_CAPABILITY = '8.0';
