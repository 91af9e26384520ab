// The page's side of the worker: each call returns a promise.

export class Client {
    constructor(url = new URL('./worker.js', import.meta.url)) {
        this.calls = new Map();
        this.number = 0;
        this.worker = new Worker(url, { type: 'module' });
        this.worker.onmessage = ({ data }) => {
            const call = this.calls.get(data.id);
            this.calls.delete(data.id);
            if ('error' in data) call.reject(Object.assign(new Error(data.error), { memory: data.memory }));
            else call.resolve(data.result);
        };
        this.worker.onerror = event => {
            event.preventDefault();
            for (const call of this.calls.values()) call.reject(new Error(event.message || 'the worker stopped'));
            this.calls.clear();
        };
    }

    call(task, given = {}, transfer = []) {
        return new Promise((resolve, reject) => {
            const id = ++this.number;
            this.calls.set(id, { resolve, reject });
            this.worker.postMessage({ id, task, ...given }, transfer);
        });
    }
}
