// Reads a photo that was chosen, dropped or pasted. Errors are sentences for the user.

export const MOST = 50e6;       // pixels

/** Something that is to be read on the page as it stands. */
export class Told extends Error {}

/** A Blob's image: { height, width, pixels }, `pixels` RGBA with what is transparent over white. */
export async function read(blob) {
    let picture;
    try {
        picture = await createImageBitmap(blob, { imageOrientation: 'from-image' });
    } catch {
        const name = blob.name ? `“${blob.name}”` : 'This';
        throw new Told(`${name} is not an image that this browser can read. Try a JPEG, PNG or WebP file.`);
    }
    const { height, width } = picture;
    try {
        if (height * width > MOST) {
            throw new Told(`This image is too large: ${width} × ${height} pixels are more than the `
                + `${MOST / 1e6} million that the page can hold.`);
        }
        const canvas = new OffscreenCanvas(width, height);
        const context = canvas.getContext('2d', { willReadFrequently: true, colorSpace: 'srgb' });
        context.fillStyle = '#fff';
        context.fillRect(0, 0, width, height);
        context.drawImage(picture, 0, 0);
        return { height, width, pixels: context.getImageData(0, 0, width, height).data };
    } catch (error) {
        if (error instanceof Told) throw error;
        throw new Told('There is not enough memory for this image. Close other tabs, or choose a smaller one.');
    } finally {
        picture.close();
    }
}
