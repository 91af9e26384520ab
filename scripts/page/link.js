// Position and zoom in the part of the page's address after '#', which never contains the photo.

const NUMBERS = { scale: [0, 1e4], y: [0, 1], x: [0, 1], split: [0, 1], clean: [0, 1] };

/** What an address says, as far as it makes sense: numbers by the names above, and `weights`, a name. */
export function parse(hash) {
    const said = {}, parameters = new URLSearchParams(hash.replace(/^#/, ''));
    for (const [name, [least, most]] of Object.entries(NUMBERS)) {
        const value = parameters.get(name) === null ? NaN : Number(parameters.get(name));
        if (value >= least && value <= most) said[name] = value;
    }
    if (parameters.get('weights')) said.weights = parameters.get('weights');
    return said;
}

export function format(said) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(said))
        if (value !== undefined) parameters.set(name, typeof value === 'number' ? String(+value.toPrecision(8)) : value);
    return `#${parameters}`;
}
