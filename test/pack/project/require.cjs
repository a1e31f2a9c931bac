require('./attend.js')(require('node-attention')).then(console.log);
