// The script that the demo runs in a JavaScript sandbox.

function describe(numbers, { unit = 'm' } = {}) {
  const mean = numbers.reduce((a, b) => a + b) / numbers.length;
  let factorial = 1n;
  for (let n = 2n; n <= 30n; n++) factorial *= n;
  return { mean: `${mean} ${unit}`, 'factorial of 30': factorial };
}

async function* countdown(start) {
  for (let n = start; n > 0; n--) {
    console.log('%d ...', n);
    await new Promise((resolve) => setTimeout(resolve, 1));
    yield { left: n };
  }
}

async function greet(userId) {
  const user = await hostcall('lookup_user', { id: userId });
  return `hello ${user.name}`;
}

function spin() {
  for (;;);
}

async function callTheInternet() {
  return await fetch('http://example.com/');
}
