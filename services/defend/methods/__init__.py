"""The methods of attacking and defending, a file each: functions of arrays, and of functions that ask a model. They
know no requests and no graphs, and import nothing of this project but each other."""
