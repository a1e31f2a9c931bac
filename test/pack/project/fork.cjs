const { fork } = require('node:child_process');
const library = require('node-attention');
const attend = require('./attend.js');

if (process.send) attend(library).then((result) => process.send(result, () => process.disconnect()));
else fork(__filename).once('message', async (result) => console.log(result && (await attend(library))));
